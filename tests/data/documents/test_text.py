"""Plain text: the text is the file's own, character for character."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents import read

Check = Callable[[Document], Document]


def blocks(document: Document) -> list[tuple[str, str]]:
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


def test_controls_are_blanked_without_moving_anything() -> None:
    document = read(b"red \x1b[31m alert\x07\r\nnext", ".log")
    assert document.text == "red  [31m alert \r\nnext"


def test_paragraphs_and_lists(checked: Check) -> None:
    document = checked(read(b"\n  First line\nsecond line  \n\n\t\n- one\n- two\n\nLast", ".txt"))
    assert blocks(document) == [
        ("paragraph", "First line\nsecond line"),
        ("list", "- one\n- two"),
        ("paragraph", "Last"),
    ]


@settings(max_examples=150)
@given(
    text=st.text(
        alphabet=st.one_of(st.sampled_from(" \n\r\t#-*|`=>.:_+12a\u2028\x0b\x0c"), st.characters(codec="utf-8")),
        max_size=200,
    ),
    suffix=st.sampled_from([".txt", ".md", ".rst", ".py", ".csv", ".tsv", ".html", ".eml", ".mbox", ".json"]),
)
def test_wild_text_keeps_the_promises_of_every_reader(checked: Check, text: str, suffix: str) -> None:
    try:
        document = read(text.encode(), suffix)
    except DocumentError:
        return
    checked(document)
    if suffix in (".txt", ".md", ".rst", ".py", ".csv", ".tsv", ".json"):
        assert len(document.text) == len(text.encode().decode("utf-8-sig")) or document.notes
