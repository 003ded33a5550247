"""PDF: text in reading order with page labels, form fields in their places, comments after each page."""

from __future__ import annotations

import ctypes
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from modelworks.core.errors import DocumentError
from modelworks.data.document import BlockKind, Document
from modelworks.data.documents import layout
from modelworks.data.documents.bidi import Box, has_rtl, pieces
from modelworks.data.documents.build import Builder, drop_controls, one_of, ranges, superscript
from modelworks.data.documents.layout import Run

_LOCK = threading.Lock()
"""PDFium keeps global state and must not be entered by two threads."""
_HYPHEN = 2
"""What PDFium gives for the hyphen of a word that it joins across two lines."""
_MAX_PAGES = 20_000
_MAX_CHARACTERS = 2_000_000
_COMPOUND = re.compile(r"\b\w+(?:-\w+)+\b")
_COMMENTS = (raw.FPDF_ANNOT_TEXT, raw.FPDF_ANNOT_FREETEXT, raw.FPDF_ANNOT_HIGHLIGHT, raw.FPDF_ANNOT_UNDERLINE)


@dataclass(slots=True)
class _Page:
    label: str
    regions: list[list[layout.Row]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    has_image: bool = False
    broken: bool = False

    @property
    def empty(self) -> bool:
        return not self.regions and not self.comments


def read(data: bytes, suffix: str) -> Document:
    with _LOCK:
        try:
            pdf = pdfium.PdfDocument(data)
        except pdfium.PdfiumError as error:
            raise DocumentError(_reason(error)) from None
        try:
            pdf.init_forms()
            title = pdf.get_metadata_value("Title")
            count = len(pdf)
            pages = [_read_page(pdf, index) for index in range(min(count, _MAX_PAGES))]
        finally:
            pdf.close()
    builder = Builder("application/pdf", title)
    if count > _MAX_PAGES:
        builder.notes.append(f"only the first {_MAX_PAGES:,} of {count:,} pages were read")
    if b"%%EOF" not in data[-2048:]:
        builder.notes.append("the file may be cut short: its end mark is missing")
    _note_pages(builder, pages)
    _add(builder, pages)
    return builder.document()


def _reason(error: Any) -> str:
    code = error.err_code
    if code == raw.FPDF_ERR_PASSWORD:
        return "password-protected: the PDF opens only with a password"
    if code == raw.FPDF_ERR_SECURITY:
        return "password-protected: the PDF uses an unsupported encryption"
    return "broken: the PDF is damaged or cut short"


def _note_pages(builder: Builder, pages: list[_Page]) -> None:
    broken = [number for number, page in enumerate(pages, 1) if page.broken]
    scanned = [number for number, page in enumerate(pages, 1) if page.empty and page.has_image]
    if len(broken) == len(pages):
        raise DocumentError("broken: none of the PDF's pages can be read")
    if all(page.empty for page in pages):
        if scanned:
            what = "page holds" if len(scanned) == 1 else "pages hold"
            raise DocumentError(f"scanned: {len(scanned)} {what} only images, no text layer")
        raise DocumentError(f"no text: {one_of(len(pages), 'page')} without a text layer (blank, or drawn as shapes)")
    if broken:
        builder.notes.append(f"broken pages left out: {ranges(broken)}")
    if scanned:
        builder.notes.append(f"pages with only images, no text layer: {ranges(scanned)}")


def _read_page(pdf: Any, index: int) -> _Page:
    result = _Page(pdf.get_page_label(index))
    try:
        page = pdf[index]
    except pdfium.PdfiumError:
        result.broken = True
        return result
    try:
        # The height before /Rotate turns the page, which is what PDFium's coordinates count from.
        height = page.get_height() if page.get_rotation() % 180 == 0 else page.get_width()
        text_page = page.get_textpage()
        try:
            runs = _runs(text_page, height)
        finally:
            text_page.close()
        runs += _fields(pdf, page, height, result.comments)
        result.regions = layout.reading_order(runs) if runs else []
        if result.empty:
            result.has_image = next(page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=4), None) is not None
    except pdfium.PdfiumError:
        result.broken = True
    finally:
        page.close()
    return result


def _runs(text_page: Any, height: float) -> list[Run]:
    """The page's characters as runs, parted where PDFium breaks a line and where a gap or a jump parts them."""
    count = min(text_page.count_chars(), _MAX_CHARACTERS)
    handle, box = text_page.raw, raw.FS_RECTF()
    get_unicode, get_box = raw.FPDFText_GetUnicode, raw.FPDFText_GetLooseCharBox
    turn = _turn(handle, count)
    runs: list[Run] = []
    characters: list[str] = []
    boxes: list[Box] = []
    first = 0

    def finish(hyphen: bool = False) -> None:
        text = _mend("".join(characters))
        if text:
            places = [place for character, place in zip(characters, boxes) if character != " "]
            left, right = min(place[0] for place in places), max(place[2] for place in places)
            top, bottom = min(place[1] for place in places), max(place[3] for place in places)
            run = Run(text, left, top, right, bottom, _size(handle, first) or bottom - top, len(runs), hyphen=hyphen)
            if has_rtl(text):
                run.pieces = pieces([drop_controls(character) or " " for character in characters], boxes)
            runs.append(run)
        characters.clear()
        boxes.clear()

    previous: Box | None = None
    line_ended = False
    for index in range(count):
        code = get_unicode(handle, index)
        if code in (10, 13):
            line_ended = True
            continue
        if code == _HYPHEN:
            finish(hyphen=True)
            previous = None
            continue
        if code >= 0x80 and raw.FPDFText_HasUnicodeMapError(handle, index) == 1:
            continue  # a glyph that the font maps to no character; its code would read as a random letter
        get_box(handle, index, box)
        here = turn(box.left, height - box.top, box.right, height - box.bottom)
        character = chr(code)
        if code != 32:
            # PDFium ends the line at a superscript, too: only what does not touch begins a new run.
            if previous is not None and (not _touches(previous, here) if line_ended else _is_apart(previous, here)):
                finish()
            line_ended = False
            if 48 <= code <= 57 and characters and _is_raised(here, boxes[-1], characters[-1]):
                character = superscript(character)
                here = (here[0], boxes[-1][1], here[2], boxes[-1][3])  # as high as its line
            previous = here
        if not characters:
            first = index
        characters.append(character)
        boxes.append(here)
    finish()
    return runs


def _touches(a: Box, b: Box) -> bool:
    """Whether `b` follows `a` closely on the same line, perhaps raised or lowered."""
    em = max(a[3] - a[1], b[3] - b[1], 1.0)
    return -0.2 * em < b[0] - a[2] < 0.3 * em and abs((a[1] + a[3]) - (b[1] + b[3])) < em


def _is_apart(a: Box, b: Box) -> bool:
    """Whether two characters in sequence are no neighbours: a wide gap, another line, or a jump back."""
    em = max(a[3] - a[1], b[3] - b[1], 1.0)
    gap = b[0] - a[2] if b[0] >= a[0] else a[0] - b[2]  # the second for right-to-left text
    return gap > 1.1 * em or abs((a[1] + a[3]) - (b[1] + b[3])) > 1.6 * em


def _is_raised(here: Box, base: Box, before: str) -> bool:
    """Whether a digit is a superscript of the character before it: smaller, and above its foot."""
    height = base[3] - base[1]
    return before != " " and here[3] - here[1] < 0.85 * height and here[3] < base[3] - 0.2 * height


def _turn(handle: Any, count: int) -> Any:
    """A map of boxes to where text that was drawn turned (on a page that is shown turned) stands upright."""
    step = max(count // 40, 1)
    quarters = Counter(
        round(angle / 1.5708) % 4
        for index in range(0, count, step)
        if (angle := raw.FPDFText_GetCharAngle(handle, index)) >= 0
    )
    quarter = quarters.most_common(1)[0][0] if quarters else 0
    return (
        lambda left, top, right, bottom: (left, top, right, bottom),
        lambda left, top, right, bottom: (top, -right, bottom, -left),
        lambda left, top, right, bottom: (-right, -bottom, -left, -top),
        lambda left, top, right, bottom: (-bottom, left, -top, right),
    )[quarter]


def _size(handle: Any, index: int) -> float:
    """The font's size as drawn: what the text matrix makes of its nominal size."""
    matrix = raw.FS_MATRIX()
    nominal = raw.FPDFText_GetFontSize(handle, index)
    if not raw.FPDFText_GetMatrix(handle, index, matrix):
        return float(nominal)
    return float(nominal * (matrix.c**2 + matrix.d**2) ** 0.5)


def _mend(text: str) -> str:
    """`text` without controls, its surrogate pairs (PDFium counts in UTF-16) joined."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return drop_controls(text).strip()


def _fields(pdf: Any, page: Any, height: float, comments: list[str]) -> list[Run]:
    """The values of the page's form fields where they stand; what annotations say goes to `comments`."""
    runs: list[Run] = []
    form = pdf.formenv.raw if pdf.formenv else None
    for index in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            kind = raw.FPDFAnnot_GetSubtype(annotation)
            if kind == raw.FPDF_ANNOT_WIDGET and form:
                text = _field_text(form, annotation)
                rect = raw.FS_RECTF()
                if text and raw.FPDFAnnot_GetRect(annotation, rect):
                    size = min(rect.top - rect.bottom, 12.0)
                    middle = height - (rect.top + rect.bottom) / 2
                    top, bottom = middle - size / 2, middle + size / 2
                    runs.append(Run(text, rect.left, top, rect.right, bottom, size, 1 << 30, is_field=True))
            elif kind in _COMMENTS and (text := _string(raw.FPDFAnnot_GetStringValue, annotation, b"Contents")):
                comments.append(text)
        finally:
            raw.FPDFPage_CloseAnnot(annotation)
    return runs


def _field_text(form: Any, annotation: Any) -> str:
    kind = raw.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in (raw.FPDF_FORMFIELD_CHECKBOX, raw.FPDF_FORMFIELD_RADIOBUTTON):
        return "☒" if raw.FPDFAnnot_IsChecked(form, annotation) else "☐"
    if kind in (raw.FPDF_FORMFIELD_TEXTFIELD, raw.FPDF_FORMFIELD_COMBOBOX, raw.FPDF_FORMFIELD_LISTBOX):
        return " ".join(_string(raw.FPDFAnnot_GetFormFieldValue, form, annotation).split())
    return ""


def _string(function: Any, *arguments: Any) -> str:
    """The UTF-16 string that a PDFium function writes when it is called a second time with a buffer."""
    length = function(*arguments, None, 0)
    if length <= 2:
        return ""
    buffer = ctypes.create_string_buffer(length)
    function(*arguments, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), length)
    return drop_controls(buffer.raw[: length - 2].decode("utf-16-le", "replace")).strip()


def _add(builder: Builder, pages: list[_Page]) -> None:
    runs = [run for page in pages for region in page.regions for row in region for run in row]
    compounds = frozenset(word.lower() for run in runs for word in _COMPOUND.findall(run.text))
    levels = _heading_levels(runs)
    for page in pages:
        builder.page(page.label)
        for kind, text, level in _blocks(page, levels, compounds):
            header = text.split("\n", 1)[0] if kind == "table" else ""
            builder.block(kind, text, level=level, header=header)
            if kind == "heading" and not builder.title:
                builder.title = text
        for comment in page.comments:
            builder.block("paragraph", comment)


def _heading_levels(runs: list[Run]) -> dict[float, int]:
    """Heading level by font size, for sizes clearly above the size that most of the text has."""
    sizes: Counter[float] = Counter()
    for run in runs:
        if not run.is_field:
            sizes[_rounded(run.size)] += len(run.text)
    if not sizes:
        return {}
    body = sizes.most_common(1)[0][0]
    larger = sorted((size for size in sizes if size >= 1.15 * body), reverse=True)
    return {size: min(level, 6) for level, size in enumerate(larger, 1)}


def _rounded(size: float) -> float:
    return round(size * 2) / 2


def _blocks(page: _Page, levels: dict[float, int], compounds: frozenset[str]) -> Iterator[tuple[BlockKind, str, int]]:
    """The page's blocks; a paragraph that goes on in the next column is joined, list items are gathered."""
    pending: tuple[BlockKind, str, int] | None = None
    hyphen = False
    for region in page.regions:
        for index, paragraph in enumerate(layout.paragraphs(region)):
            text = layout.text_of(paragraph, compounds)
            level = levels.get(_rounded(paragraph.size), 0)
            kind: BlockKind = (
                "table" if paragraph.kind == "table" else "list" if paragraph.kind == "item" else "paragraph"
            )
            if level and kind == "paragraph" and len(text) < 200:
                kind, text = "heading", text.replace("\n", " ")
            else:
                level = 0
            goes_on = (hyphen or text[:1].islower()) and index == 0 and kind == "paragraph"
            if (
                pending
                and goes_on
                and pending[0] in ("paragraph", "list")
                and (hyphen or pending[1][-1:] not in ".!?:")
            ):
                pending = pending[0], layout.join_lines(pending[1], text, hyphen, compounds), 0
            elif pending and kind == "list" and pending[0] == "list":
                pending = "list", f"{pending[1]}\n{text}", 0
            else:
                if pending:
                    yield pending
                pending = kind, text, level
            hyphen = paragraph.rows[-1][-1].hyphen
    if pending:
        yield pending[0], pending[1] + ("-" if hyphen else ""), pending[2]
