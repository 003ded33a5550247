"""What is printed is safe on a terminal."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.log import escaped


@given(st.text(st.characters(exclude_categories=())))  # surrogates too
def test_escaped_text_is_one_printable_line(text: str) -> None:
    shown = escaped(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in shown)
    assert escaped(shown) == shown
    if not any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        assert shown == text
