"""What the reader tests share: the public documents, a checker of a document's invariants, a maker of PDFs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from modelworks.data.document import Document

Line = tuple[float, float, float, str]
"""x and y of the baseline's start in points from the lower left, font size, text."""


@pytest.fixture(scope="session")
def shared_documents() -> Path:
    folder = Path(__file__).parents[4] / "shared" / "data" / "documents"
    if not folder.is_dir():
        pytest.skip("the public documents (../shared/data/documents) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def checked() -> Callable[[Document], Document]:
    return check


def check(document: Document) -> Document:
    """Assert what every reader promises; give the document back."""
    text = document.text
    assert text.strip()
    assert not any("\ud800" <= c <= "\udfff" or c == "\0" for c in text)
    at = 0
    for block in document.blocks:
        assert at <= block.start < block.end <= len(text)
        assert not text[at : block.start].strip(), f"text outside of blocks: {text[at : block.start]!r}"
        assert block.header_end is None or block.start < block.header_end <= block.end
        assert (block.level > 0) == (block.kind == "heading")
        at = block.end
    assert not text[at:].strip()
    at = 0
    for number, page in enumerate(document.pages, 1):
        assert page.number == number
        assert at <= page.start <= page.end <= len(text)
        assert not text[at : page.start].strip()
        at = page.end
    assert not text[at:].strip()
    return document


@pytest.fixture(scope="session")
def make_pdf() -> Callable[..., bytes]:
    return _make_pdf


def _make_pdf(pages: Sequence[Sequence[Line]], *, rotation: int = 0) -> bytes:
    """A PDF with lines of Helvetica."""
    import ctypes

    import pypdfium2 as pdfium
    import pypdfium2.raw as raw

    pdf = pdfium.PdfDocument.new()
    for lines in pages:
        page = pdf.new_page(612, 792)
        page.set_rotation(rotation)
        for x, y, size, text in lines:
            item = raw.FPDFPageObj_NewTextObj(pdf, b"Helvetica", size)
            encoded = (text + "\0").encode("utf-16-le")
            raw.FPDFText_SetText(item, ctypes.cast(encoded, ctypes.POINTER(ctypes.c_ushort)))
            raw.FPDFPageObj_Transform(item, 1, 0, 0, 1, x, y)
            raw.FPDFPage_InsertObject(page, item)
        page.gen_content()
    out = io.BytesIO()
    pdf.save(out)
    pdf.close()
    return out.getvalue()
