"""Word: what a reader sees, with the numbers and texts that Word itself computes or hides."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents import read


def saved(document: Any) -> bytes:
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def add(document: Any, inner: str) -> None:
    document.element.body.insert(len(document.element.body) - 1, parse_xml(f"<w:p {nsdecls('w')}>{inner}</w:p>"))


def test_structure(checked: Callable[[Document], Document]) -> None:
    word = docx.Document()
    word.add_heading("Handbook", 0)
    word.add_heading("Scope", 1)
    word.add_paragraph("Plain text.")
    for text in ("one", "two"):
        word.add_paragraph(text, style="List Bullet")
    for text in ("first", "second"):
        word.add_paragraph(text, style="List Number")
    table = word.add_table(3, 2)
    for row, cells in zip(table.rows, [("Name", "Age"), ("Ada", "36"), ("", "")], strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    word.sections[0].footer.paragraphs[0].text = "Footer text"
    document = checked(read(saved(word), ".docx"))
    found = [(block.kind, block.level, document.text[block.start : block.end]) for block in document.blocks]
    assert found == [
        ("heading", 1, "Handbook"),
        ("heading", 1, "Scope"),
        ("paragraph", 0, "Plain text."),
        ("list", 0, "- one\n- two\n1. first\n2. second"),
        ("table", 0, "Name | Age\nAda | 36"),
        ("paragraph", 0, "Footer text"),
    ]
    assert document.title in ("Handbook", "Word Document")


def test_hidden_and_deleted_text_is_not_read_and_inserted_is() -> None:
    word = docx.Document()
    add(
        word,
        "<w:r><w:t>kept </w:t></w:r><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>inserted </w:t></w:r></w:ins><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>"
        "<w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink><w:r><w:instrText>PAGE</w:instrText></w:r>"
        '<w:r><w:t xml:space="preserve"> 10</w:t></w:r>'
        '<w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:t>6</w:t></w:r>'
        "<w:r><w:tab/><w:noBreakHyphen/><w:br/><w:t>next</w:t></w:r>",
    )
    assert read(saved(word), ".docx").text == "kept inserted link 10⁶\t-\nnext"


def test_text_boxes_and_content_controls_are_read_once() -> None:
    word = docx.Document()
    box = "<w:txbxContent><w:p><w:r><w:t>in a box</w:t></w:r></w:p></w:txbxContent>"
    add(
        word,
        "<w:r><w:t>anchor</w:t></w:r><w:r>"
        '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f'<mc:Choice Requires="wps">{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:r>',
    )
    control = f"<w:sdt {nsdecls('w')}><w:sdtContent><w:p><w:r><w:t>control</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    word.element.body.insert(len(word.element.body) - 1, parse_xml(control))
    assert read(saved(word), ".docx").text == "anchor\n\nin a box\n\ncontrol"


def test_merged_cells_are_readable_in_every_row() -> None:
    word = docx.Document()
    table = word.add_table(3, 3)
    for i, row in enumerate(table.rows):
        for j, cell in enumerate(row.cells):
            cell.text = f"{i}{j}"
    table.cell(1, 0).merge(table.cell(2, 0)).text = "tall"
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    assert read(saved(word), ".docx").text == "wide |  | 02\ntall | 11 | 12\ntall | 21 | 22"


def test_a_heading_style_is_found_through_the_styles_it_is_based_on() -> None:
    word = docx.Document()
    style = word.styles.add_style("Chapter", 1)
    style.base_style = word.styles["Heading 2"]
    word.add_paragraph("Custom", style="Chapter")
    word.add_paragraph("text")
    assert [(b.kind, b.level) for b in read(saved(word), ".docx").blocks] == [("heading", 2), ("paragraph", 0)]


def test_a_blank_document_is_named() -> None:
    with pytest.raises(DocumentError, match="no text: the document is blank"):
        read(saved(docx.Document()), ".docx")
