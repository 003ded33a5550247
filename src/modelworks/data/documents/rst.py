"""reStructuredText: the text is the file's; titles, literal blocks, lists and tables by the shapes of their lines."""

from __future__ import annotations

import re

from modelworks.data.document import Block, BlockKind, Document
from modelworks.data.documents.text import lines_of, source_document, source_text

# Any punctuation may underline a title (docutils' reference, "Sections").
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{1,}[ \t]*$")
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|(?:\d+|#|[a-zA-Z])[.)]|\([\da-z]+\))[ \t]+\S")
_GRID_BORDER = re.compile(r"[ \t]*\+(?:[-=]+\+)+[ \t]*$")
_SIMPLE_BORDER = re.compile(r"[ \t]*=+(?:[ \t]+=+)+[ \t]*$")
_TITLE_FIELD = re.compile(r"^:?Title:[ \t]*(\S.*?)[ \t]*$", re.M | re.I)
_CODE_DIRECTIVE = re.compile(r"[ \t]*\.\. (?:code|code-block|sourcecode|parsed-literal|productionlist|doctest)::")


def read(data: bytes, suffix: str) -> Document:
    text, notes = source_text(data)
    scanner = _Scanner(text)
    scanner.scan()
    # A Python enhancement proposal and its like give the title as a field of their header.
    field = _TITLE_FIELD.search(text, 0, scanner.blocks[0].end)
    title = field[1] if field else scanner.title
    return source_document(text, scanner.blocks, "text/x-rst", title=title, notes=notes)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = list(lines_of(text, 0, len(text)))
        self.blocks: list[Block] = []
        self.title = ""
        self.at = 0
        self._levels: list[tuple[str, bool]] = []
        """Adornments in order of first appearance: a title's level is where its own stands."""

    def scan(self) -> None:
        while self.at < len(self.lines):
            line = self._line(self.at)
            if not line.strip():
                self.at += 1
            elif not self._heading():
                if _GRID_BORDER.match(line) or _SIMPLE_BORDER.match(line):
                    self._table()
                elif _CODE_DIRECTIVE.match(line) or line.lstrip().startswith(">>>"):
                    self._emit("code", self._indented_end(self.at + 1, line))
                else:
                    self._paragraph()

    def _line(self, index: int) -> str:
        if index >= len(self.lines):
            return ""
        start, end = self.lines[index]
        return self.text[start:end]

    def _emit(self, kind: BlockKind, stop: int, *, level: int = 0, header_end: int | None = None) -> None:
        first, last = self.at, stop - 1
        self.at = stop
        while last > first and not self._line(last).strip():
            last -= 1
        self.blocks.append(Block(kind, self.lines[first][0], self.lines[last][1], level, header_end))

    def _heading(self) -> bool:
        line, below = self._line(self.at), self._line(self.at + 1)
        over = (
            bool(_ADORNMENT.match(line)) and self._line(self.at + 2).rstrip() == line.rstrip() and bool(below.strip())
        )
        title, underline = (below, line) if over else (line, below)
        mark = _ADORNMENT.match(underline)
        if not mark or _ADORNMENT.match(title) or (title[:1].isspace() and not over):
            return False
        if len(underline.rstrip()) < min(len(title.strip()), 4):
            return False
        style = (mark.group(1), over)
        if style not in self._levels:
            self._levels.append(style)
        self.title = self.title or title.strip()
        self._emit("heading", self.at + (3 if over else 2), level=self._levels.index(style) + 1)
        return True

    def _indented_end(self, index: int, opening: str) -> int:
        """The first line at or after `index` that is neither blank nor indented deeper than `opening`."""
        depth = len(opening) - len(opening.lstrip())
        deeper = (" " * (depth + 1), "\t")
        prompt = opening.lstrip().startswith(">>>")
        while index < len(self.lines):
            line = self._line(index)
            if prompt and not line.strip():
                break
            if line.strip() and not prompt and not line.startswith(deeper):
                break
            index += 1
        return index

    def _table(self) -> None:
        stop = self.at + 1
        simple = bool(_SIMPLE_BORDER.match(self._line(self.at)))
        header_end = None
        borders = 1
        while stop < len(self.lines) and (self._line(stop).strip() or (simple and borders < 3)):
            line = self._line(stop)
            if simple and _SIMPLE_BORDER.match(line):
                borders += 1
                if borders == 2 and self._line(stop + 1).strip():
                    header_end = self.lines[stop][1]
                elif borders == 2 or borders == 3:
                    stop += 1
                    break
            elif not simple and "=" in line and _GRID_BORDER.match(line):
                header_end = self.lines[stop][1]
            stop += 1
        self._emit("table", stop, header_end=header_end)

    def _paragraph(self) -> None:
        first = self._line(self.at)
        stop = self.at + 1
        while self._line(stop).strip():
            stop += 1
        last = self._line(stop - 1).rstrip()
        items = sum(bool(_ITEM.match(self._line(index))) for index in range(self.at, stop))
        depth = len(first) - len(first.lstrip())
        self._emit("list" if items > 1 else "paragraph", stop)
        if not last.endswith("::") or (first.lstrip().startswith(".. ") and not last.endswith(" ::")):
            return
        while self.at < len(self.lines) and not self._line(self.at).strip():
            self.at += 1
        line = self._line(self.at)
        if len(line) - len(line.lstrip()) > depth:
            self._emit("code", self._indented_end(self.at, " " * depth + "x"))
