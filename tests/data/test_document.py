"""What a document says of itself."""

from __future__ import annotations

import pytest

from modelworks.data.documents import read


@pytest.mark.parametrize(
    ("suffix", "reflows"), [(".md", True), (".rst", True), (".txt", False), (".html", False), (".csv", False)]
)
def test_a_line_end_is_a_space_in_markup_alone(suffix: str, reflows: bool) -> None:
    assert read(b"Some words\nand more.\n", suffix).reflows is reflows
