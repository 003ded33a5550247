"""PDF: paragraphs, columns, hyphens, tables, headings and notes, on pages made here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents import read

MakePdf = Callable[..., bytes]
LOREM = "the quick brown fox jumps over the lazy dog and"


def paragraph(x: float, y: float, lines: list[str], size: float = 10) -> list[tuple[float, float, float, str]]:
    return [(x, y - 12 * i, size, line) for i, line in enumerate(lines)]


def blocks(data: bytes) -> list[tuple[str, str]]:
    document = read(data, ".pdf")
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


def test_lines_of_a_paragraph_are_joined_and_split_words_mended(make_pdf: MakePdf) -> None:
    lines = [f"First {LOREM} runs through tem-", "pora mutantur while the well-known fox of Schwarz-", "Weiss rests."]
    page = paragraph(72, 700, lines) + paragraph(72, 640, ["A second one."])
    assert blocks(make_pdf([page])) == [
        ("paragraph", f"First {LOREM} runs through tempora mutantur while the well-known fox of Schwarz-Weiss rests."),
        ("paragraph", "A second one."),
    ]


def test_a_compound_keeps_its_hyphen_where_the_document_spells_it_so(make_pdf: MakePdf) -> None:
    page = paragraph(
        72, 700, [f"A well-known fact: {LOREM} is well-", "known to everyone who reads about foxes and dogs."]
    )
    assert "is well-known to everyone" in read(make_pdf([page]), ".pdf").text


def test_columns_are_read_one_after_the_other_under_their_title(make_pdf: MakePdf) -> None:
    left = [f"left {i} {LOREM[:38]}" for i in range(8)]
    right = [f"right {i} {LOREM[:38]}" for i in range(8)]
    page = [(200, 750, 16, "A title over both columns")]
    page += paragraph(60, 700, left) + paragraph(320, 700, right)  # baselines agree, as in print
    text = read(make_pdf([page]), ".pdf").text
    assert text.startswith("A title over both columns")
    assert text.index("left 7") < text.index("right 0")
    assert "left 0 the quick brown fox jumps over the laz left 1" in text.replace("\n", " ")


def test_cells_side_by_side_are_a_table_not_columns(make_pdf: MakePdf) -> None:
    rows = [
        ("Country", "Capital", "Area"),
        ("Austria", "Vienna", "83,879"),
        ("Belgium", "", "30,689"),
        ("Fiji", "Suva", "1"),
    ]
    page = [
        (x, 700 - 14 * i, 10.0, cell)
        for i, row in enumerate(rows)
        for x, cell in zip((72, 200, 330), row, strict=True)
        if cell
    ]
    document = read(make_pdf([page]), ".pdf")
    [table] = document.blocks
    assert table.kind == "table"
    assert document.text == "Country | Capital | Area\nAustria | Vienna | 83,879\nBelgium |  | 30,689\nFiji | Suva | 1"
    assert document.text[: table.header_end] == "Country | Capital | Area"


def test_larger_lines_are_headings_and_bullets_are_lists(make_pdf: MakePdf) -> None:
    page = [(72.0, 740.0, 20.0, "Title"), (72.0, 700.0, 14.0, "Section")]
    page += paragraph(72, 670, [f"Body {LOREM} {LOREM[:20]}", "and more of the same."])
    page += paragraph(72, 630, ["1. first item", "2. second item"])
    document = read(make_pdf([page]), ".pdf")
    found = [(block.kind, block.level, document.text[block.start : block.end]) for block in document.blocks]
    assert found[:2] == [("heading", 1, "Title"), ("heading", 2, "Section")]
    assert found[2][2].endswith("and more of the same.")
    assert found[3] == ("list", 0, "1. first item\n2. second item")
    assert document.title == "Title"


def test_lines_that_end_early_keep_their_ends(make_pdf: MakePdf) -> None:
    page = paragraph(72, 700, ["Name: Ada Lovelace", "Born: 1815", "Died: 1852"])
    assert blocks(make_pdf([page])) == [("paragraph", "Name: Ada Lovelace\nBorn: 1815\nDied: 1852")]


def test_the_stream_may_be_out_of_order(make_pdf: MakePdf) -> None:
    page = paragraph(72, 600, ["Below."]) + paragraph(72, 700, ["Above."])
    assert read(make_pdf([page]), ".pdf").text == "Above.\n\nBelow."


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_turned_pages_read_alike(make_pdf: MakePdf, rotation: int) -> None:
    pages = [paragraph(72, 700, [f"First {LOREM}", "then the second line."])]
    assert read(make_pdf(pages, rotation=rotation), ".pdf").text == f"First {LOREM} then the second line."


def test_pages_have_their_spans_and_blank_ones_are_empty(
    make_pdf: MakePdf, checked: Callable[[Document], Document]
) -> None:
    document = checked(read(make_pdf([[(72, 700, 10, "one")], [], [(72, 700, 10, "three")]]), ".pdf"))
    assert [(p.number, document.text[p.start : p.end]) for p in document.pages] == [(1, "one"), (2, ""), (3, "three")]


def test_a_pdf_without_text_says_so(make_pdf: MakePdf) -> None:
    with pytest.raises(DocumentError, match=r"no text: 2 pages without a text layer"):
        read(make_pdf([[], []]), ".pdf")


def test_a_pdf_cut_short_is_read_as_far_as_it_goes_with_a_note_or_refused(make_pdf: MakePdf) -> None:
    data = make_pdf([[(72, 700, 10, "whole")]])
    document = read(data[: data.rindex(b"%%EOF")], ".pdf")
    assert document.text == "whole"
    assert document.notes == ("the file may be cut short: its end mark is missing",)
    with pytest.raises(DocumentError, match="broken: the PDF is damaged or cut short"):
        read(data[:60], ".pdf")


def test_non_bmp_characters_survive(make_pdf: MakePdf) -> None:
    assert "caf\u00e9" in read(make_pdf([[(72, 700, 10, "caf\u00e9 here")]]), ".pdf").text


def test_a_broken_page_is_noted_and_the_others_are_read() -> None:
    stream = b"BT /F1 12 Tf 72 700 Td (Hello) Tj ET"
    page = (
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>"
    )
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 3/Kids[3 0 R 5 0 R 6 0 R]>>",
        page,
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"(no page)",
        page,
    ]
    # Without a cross-reference table PDFium searches for the objects, as it does in a damaged file.
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (i, item) for i, item in enumerate(objects, 1))
    document = read(b"%PDF-1.4\n" + body + b"trailer<</Size 7/Root 1 0 R>>\n%%EOF", ".pdf")
    assert [document.text[p.start : p.end] for p in document.pages] == ["Hello", "", "Hello"]
    assert document.notes == ("broken pages left out: 2",)
