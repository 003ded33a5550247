"""CSV and TSV: one table, its header found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelworks.data.document import Document
from modelworks.data.documents import read

Check = Callable[[Document], Document]


def test_csv_has_its_first_record_as_header_even_with_quoted_line_ends(checked: Check) -> None:
    text = 'name;"note, with\nline end"\nAda;"a;b"\nAlan;c\n'
    document = checked(read(text.encode(), ".csv"))
    [block] = document.blocks
    assert document.text == text
    assert block.kind == "table"
    assert block.header_end is not None
    assert text[: block.header_end] == 'name;"note, with\nline end"'


def test_csv_of_numbers_or_of_one_row_has_no_header() -> None:
    assert read(b"1,2\n3,4\n", ".csv").blocks[0].header_end is None
    assert read(b"a,b\n", ".csv").blocks[0].header_end is None
    assert read(b"a\tb\n1\t2\n", ".tsv").media_type == "text/tab-separated-values"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_separates(delimiter: str) -> None:
    text = delimiter.join(["name", '"a;b,c|d"', "age"]) + "\n" + delimiter.join(["Ada", "x", "36"]) + "\n"
    [block] = read(text.encode(), ".csv").blocks
    assert text[: block.header_end] == text.splitlines()[0]


def test_a_cell_longer_than_the_csv_modules_limit_is_read() -> None:
    text = f"name,note\nAda,{'x' * 200_000}\n"
    assert read(text.encode(), ".csv").text == text
