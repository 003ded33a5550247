"""Spreadsheets: shown values, captions, hidden sheets, and sizes that lie."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Callable
from typing import Any

import openpyxl
import pytest
from openpyxl.comments import Comment

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.data.documents import read, sheets


def saved(book: Any) -> bytes:
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def test_a_workbook(checked: Callable[[Document], Document]) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Sales"
    rows = [
        ("Figures of 2023",),
        (None, "City", "Share", "Since"),
        (None, "Köln", 0.125, datetime.date(2020, 1, 2)),
        (),
    ]
    for row in [*rows, ("below", True)]:
        sheet.append(row)
    sheet["C3"].number_format = "0.0%"
    sheet["A1"].comment = Comment("Check this.", "Ada")
    book.create_sheet("Sheet2").append(["plain"])
    book.create_sheet("Secret").append(["hidden"])
    book["Secret"].sheet_state = "hidden"
    document = checked(read(saved(book), ".xlsx"))
    assert [(page.label, document.text[page.start : page.end]) for page in document.pages] == [
        (
            "Sales",
            "Sales\n\nFigures of 2023\n\nCity | Share | Since\nKöln | 12.5% | 2020-01-02\n\nbelow | TRUE"
            "\n\nComment on A1 by Ada: Check this.",
        ),
        ("Sheet2", "plain"),
    ]
    assert document.notes == ("hidden sheet 'Secret' left out",)
    table = next(block for block in document.blocks if block.kind == "table")
    assert document.text[table.start : table.header_end] == "City | Share | Since"


def test_a_formula_without_a_saved_result_is_noted() -> None:
    book = openpyxl.Workbook()
    book.active.append(["sum", "=1+1"])
    document = read(saved(book), ".xlsx")
    assert document.text == "sum"
    assert document.notes[0].startswith("1 formula without a saved result left out")


def with_sheet(xml: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(openpyxl.Workbook()))) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            new.writestr(item.filename, xml if item.filename == "xl/worksheets/sheet1.xml" else old.read(item))
    return out.getvalue()


SHEET = (
    b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    b'<dimension ref="A1:XFD1048576"/><sheetData>%s</sheetData></worksheet>'
)


def test_a_sheet_that_claims_to_be_huge_is_read_by_its_cells() -> None:
    cells = b'<row r="1"><c r="A1"><v>7</v></c></row><row r="900000"><c r="B900000"><v>8</v></c></row>'
    assert read(with_sheet(SHEET % cells), ".xlsx").text == "7\n\n8"


def test_a_sheet_that_is_huge_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "_MAX_CELLS", 50)
    rows = b"".join(b'<row r="%d"><c r="A%d"><v>%d</v></c></row>' % (i, i, i) for i in range(1, 200))
    document = read(with_sheet(SHEET % rows), ".xlsx")
    assert document.text.splitlines()[-1] == "49"
    assert document.notes == ("only the first 50 cells were read, up to sheet 'Sheet'",)


def test_an_empty_workbook_is_named() -> None:
    with pytest.raises(DocumentError, match="no text: the document is blank"):
        read(saved(openpyxl.Workbook()), ".xlsx")
