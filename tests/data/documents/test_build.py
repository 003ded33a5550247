"""Assembling extracted text: offsets right by construction, nothing unprintable left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents.build import (
    Builder,
    blank_controls,
    drop_controls,
    one_line,
    one_of,
    ranges,
    superscript,
)

Check = Callable[[Document], Document]


def test_pages_and_blocks_stand_where_they_say(checked: Check) -> None:
    builder = Builder("application/x", title="Untitled 1")
    builder.page("i")
    builder.block("heading", "  Title ", level=1)
    builder.block("paragraph", "One\r\ntwo\x07.\n")
    builder.page("ii")
    builder.page("iii")
    builder.table([["Name", "Age"], ["", ""], ["Ada", "36"]])
    document = checked(builder.document())
    assert document.text == "Title\n\nOne\ntwo.\n\nName | Age\nAda | 36"
    assert document.title == ""  # what a program puts where an author put nothing
    assert [(page.number, page.label, document.text[page.start : page.end]) for page in document.pages] == [
        (1, "i", "Title\n\nOne\ntwo."),
        (2, "ii", ""),
        (3, "iii", "Name | Age\nAda | 36"),
    ]
    table = document.blocks[-1]
    assert document.text[table.start : table.header_end] == "Name | Age"


@given(st.lists(st.tuples(st.sampled_from(["paragraph", "list", "code"]), st.text(max_size=40)), max_size=6))
def test_any_pieces_make_a_sound_document_or_none(pieces: list[tuple[str, str]]) -> None:
    builder = Builder("application/x")
    for kind, text in pieces:
        builder.block(kind, text)  # type: ignore[arg-type]
    try:
        document = builder.document()
    except DocumentError:
        assert not any(drop_controls(text).strip() for _, text in pieces)
        return
    at = 0
    for block in document.blocks:
        assert document.text[at : block.start] in ("", "\n\n")
        assert document.text[block.start : block.end].strip()
        at = block.end
    assert at == len(document.text)


@given(st.text())
def test_controls_are_blanked_in_place_or_dropped(text: str) -> None:
    assert len(blank_controls(text)) == len(text)
    assert not set(drop_controls(text)) & set("\x00\x07\x1b\r\x7f\x9b\ufffe")


def test_small_words() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert (one_of(1, "page"), one_of(3, "page")) == ("1 page", "3 pages")
    assert superscript("-12") == "⁻¹²"
    assert one_line(" a\n\t b\u2028c ") == "a b c"


@pytest.mark.parametrize(
    "title", ["Untitled", "untitled-3", "PowerPoint Presentation", "Microsoft Word - x.doc", "Sheet1"]
)
def test_titles_that_say_nothing_are_none(title: str) -> None:
    builder = Builder("application/x", title=title)
    builder.block("paragraph", "text")
    assert builder.document().title == ""
