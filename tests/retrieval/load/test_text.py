"""Plain text, encodings, code and CSV: the text is the file's own, character for character."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.core.errors import DocumentError
from modelworks.retrieval.document import Document
from modelworks.retrieval.load import read
from modelworks.retrieval.load.encoding import decode

Check = Callable[[Document], Document]


def blocks(document: Document) -> list[tuple[str, str]]:
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


@pytest.mark.parametrize(
    ("data", "text", "notes"),
    [
        ("Grüße, 東京".encode(), "Grüße, 東京", ()),
        (b"\xef\xbb\xbfwith a mark", "with a mark", ()),
        ("Grüße".encode("utf-16"), "Grüße", ("read as utf-16-le",)),
        ("Grüße aus Köln".encode("utf-16-be"), "Grüße aus Köln", ("read as utf-16-be",)),
        (b"\xff\xfe\x00\x00" + "Größe".encode("utf-32-le"), "Größe", ("read as utf-32-le",)),
        ("“Café” costs 5 €".encode("cp1252"), "“Café” costs 5 €", ("read as cp1252",)),
        (b"undefined \x81 there", "undefined   there", ("read as latin-1",)),
        (("Привет, мир! Это длинный русский текст. " * 5).encode("cp1251"), None, ("read as cp1251",)),
        (("これは日本語の文章です。" * 10).encode("shift_jis"), "これは日本語の文章です。" * 10, None),
    ],
)
def test_every_text_encoding_is_read(data: bytes, text: str | None, notes: tuple[str, ...] | None) -> None:
    document = read(data, ".txt")
    assert text is None or document.text == text
    assert notes is None or document.notes == notes


def test_a_declared_encoding_is_tried_but_not_trusted() -> None:
    assert decode("naïve".encode("cp1252"), "cp1252") == ("naïve", "cp1252")
    assert decode("naïve".encode(), "no-such-encoding") == ("naïve", "utf-8")
    with pytest.raises(DocumentError, match="binary"):
        decode(b"\0\1\2" * 100)


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


@settings(deadline=None, max_examples=150)
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


def test_code_blocks_begin_at_unindented_lines(checked: Check) -> None:
    source = "import os\n\n\n@cache\ndef f():\n    a = 1\n\n    return a\n\n\nclass C:\n    x = 1\n"
    document = checked(read(source.encode(), ".py"))
    assert document.text == source
    assert [text for _, text in blocks(document)] == [
        "import os",
        "@cache\ndef f():\n    a = 1\n\n    return a",
        "class C:\n    x = 1",
    ]
    braces = read(b"int f() {\n  int a;\n\n}\n\nint g() { }\n", ".c")
    assert len(braces.blocks) == 2


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
