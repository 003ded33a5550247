"""Assembling a `Document` from extracted pieces, with offsets that are right by construction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from modelworks.core.errors import DocumentError
from modelworks.data.document import Block, BlockKind, Document, Page

CELL = " | "
"""Between the cells of a table row in extracted text; what stands between them on a page is a rule or a gap."""

# Control characters but tab, newline and carriage return; lone surrogates; the two non-characters that XML forbids.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_SUPERSCRIPT = str.maketrans("0123456789+-−n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")
_NO_TITLE = re.compile(
    r"untitled\W?\d*|(powerpoint )?presentation|(slide|document|sheet|book|workbook) ?\d*|microsoft \w+ - .*", re.I
)
_SPACES = re.compile(r"[ \t\n\r\f\v\x85\u2028\u2029]+")


def blank_controls(text: str) -> str:
    """Control characters and lone surrogates, each replaced by one space so that offsets stay those of the source.

    They can neither be searched nor stored (SQLite and UTF-8 refuse surrogates), and an ESC that reaches a
    terminal inside a quotation would be obeyed.
    """
    return _UNPRINTABLE.sub(" ", text)


def drop_controls(text: str) -> str:
    """`text` without control characters and lone surrogates, line ends as newlines; for extracted text only."""
    return _UNPRINTABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def superscript(text: str) -> str:
    """Digits as superscript characters: an exponent or a note's mark must not read as part of the number before it."""
    return text.translate(_SUPERSCRIPT)


def one_line(text: str) -> str:
    """`text` with each run of white space as one space, ends trimmed, as a browser shows it."""
    return _SPACES.sub(" ", text).strip(" ")


def one_of(count: int, noun: str) -> str:
    """`1 page`, `3 pages`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as people write them: `[1, 2, 3, 7]` gives `1-3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


class Builder:
    """Collects pages and blocks in reading order, two newlines between neighbours."""

    def __init__(self, media_type: str, title: str = "") -> None:
        self.media_type = media_type
        self.title = title
        self.notes: list[str] = []
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._pages: list[Page] = []

    def page(self, label: str = "") -> None:
        """Begin a page; the blocks added until the next call stand on it."""
        self._end_page()
        self._pages.append(Page(len(self._pages) + 1, self._next_start(), self._next_start(), label))

    def block(self, kind: BlockKind, text: str, *, level: int = 0, header: str = "") -> None:
        """Add a block; `text` begins with `header` where a table has one. Blank text adds nothing."""
        text = drop_controls(text).rstrip()
        text = text.lstrip("\n") if kind == "code" else text.lstrip()
        if not text:
            return
        start = self._next_start()
        self._write(text)
        header_end = start + len(drop_controls(header).strip()) if header else None
        self._blocks.append(Block(kind, start, self._length, level, header_end))

    def table(self, rows: Iterable[Sequence[str]], *, header: bool = True) -> None:
        """Add a table of cell texts; rows without any text are left out, the first row left is the header."""
        lines = [line for row in rows if (line := row_text(row))]
        self.block("table", "\n".join(lines), header=lines[0] if header and len(lines) > 1 else "")

    def document(self) -> Document:
        """The finished document.

        Raises:
            DocumentError: if no block was added.
        """
        if not self._blocks:
            raise DocumentError("no text: the document is blank")
        if not self._pages:
            self._pages.append(Page(1, 0, 0))
        self._end_page()
        return Document(
            text="".join(self._parts),
            pages=tuple(self._pages),
            blocks=tuple(self._blocks),
            media_type=self.media_type,
            title=_title(self.title),
            notes=tuple(self.notes),
        )

    def _next_start(self) -> int:
        return self._length + 2 if self._length else 0

    def _write(self, text: str) -> None:
        for part in ("\n\n", text) if self._length else (text,):
            self._parts.append(part)
            self._length += len(part)

    def _end_page(self) -> None:
        if self._pages:
            last = self._pages[-1]
            # A page without text is an empty span where its text would have been.
            start = min(last.start, self._length)
            self._pages[-1] = Page(last.number, start, self._length, last.label)


def _title(text: str) -> str:
    """A title on one line; "" for what programs put where authors put nothing."""
    title = one_line(drop_controls(text))
    return "" if _NO_TITLE.fullmatch(title) else title


def row_text(cells: Sequence[str]) -> str:
    """One line for a row: cells trimmed and joined by `CELL`, empty ones at the end dropped."""
    texts = [one_line(cell) for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return CELL.join(texts)
