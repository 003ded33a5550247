"""Markdown: the text is the file's; a line scanner finds the blocks of CommonMark that matter to a chunker."""

from __future__ import annotations

import re

from modelworks.data.document import Block, BlockKind, Document
from modelworks.data.documents.text import lines_of, source_document, source_text

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?[ \t]*#*[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]+\S|[ \t]*$)")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_DELIMITER_ROW = re.compile(r" {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_FRONT_TITLE = re.compile(r"^title:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.M)


def read(data: bytes, suffix: str) -> Document:
    text, notes = source_text(data)
    scanner = _Scanner(text)
    scanner.scan()
    title = scanner.title or next(
        (text[b.start : b.end].lstrip("# ").split("\n")[0].rstrip("# \r") for b in scanner.blocks if b.level == 1), ""
    )
    return source_document(text, scanner.blocks, "text/markdown", title=title, notes=notes)


class _Scanner:
    """One pass over the lines; `at` is the index of the line that the next block begins with."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = list(lines_of(text, 0, len(text)))
        self.blocks: list[Block] = []
        self.title = ""
        self.at = 0

    def scan(self) -> None:
        self._front_matter()
        while self.at < len(self.lines):
            line = self._line(self.at)
            if not line.strip() or _RULE.match(line):
                # A rule is no text, yet each character of a document belongs to a block.
                self._emit("paragraph", self.at + 1)
            elif _FENCE.match(line):
                self._fence()
            elif heading := _ATX.match(line):
                self._emit("heading", self.at + 1, level=len(heading.group(1)))
            elif _ITEM.match(line):
                self._list()
            elif self._is_table():
                self._table()
            elif line.startswith(("    ", "\t")):
                self._indented_code()
            else:
                self._paragraph()

    def _line(self, index: int) -> str:
        start, end = self.lines[index]
        return self.text[start:end]

    def _emit(self, kind: BlockKind, stop: int, *, level: int = 0, header_lines: int = 0) -> None:
        """A block of the lines from `at` up to `stop`; blank lines at its end are left out."""
        first, last = self.at, stop - 1
        self.at = stop
        while last > first and not self._line(last).strip():
            last -= 1
        if self._line(first).strip():
            header_end = self.lines[first + header_lines - 1][1] if header_lines else None
            self.blocks.append(Block(kind, self.lines[first][0], self.lines[last][1], level, header_end))

    def _front_matter(self) -> None:
        if not self.lines or self._line(0).rstrip() != "---":
            return
        for index in range(1, min(len(self.lines), 200)):
            if self._line(index).rstrip() in ("---", "..."):
                found = _FRONT_TITLE.search(self.text, 0, self.lines[index][0])
                self.title = found.group(2).strip() if found else ""
                self._emit("code", index + 1)
                return

    def _fence(self) -> None:
        opening = _FENCE.match(self._line(self.at))
        assert opening is not None
        mark = opening.group(1)
        closing = re.compile(rf" {{0,3}}{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$")
        stop = self.at + 1
        while stop < len(self.lines) and not closing.match(self._line(stop)):
            stop += 1
        self._emit("code", min(stop + 1, len(self.lines)))

    def _list(self) -> None:
        """Items with their indented continuations; a fence inside an item belongs to it."""
        stop = self.at + 1
        fence = ""
        while stop < len(self.lines):
            line = self._line(stop)
            mark = line.strip()[:3]
            if fence:
                fence = "" if mark == fence else fence
            elif mark in ("```", "~~~"):
                fence = mark
            elif not line.strip():
                following = self._line(stop + 1) if stop + 1 < len(self.lines) else ""
                if not (following.startswith((" ", "\t")) or _ITEM.match(following)):
                    break
            elif _ATX.match(line) or _RULE.match(line):
                break
            stop += 1
        self._emit("list", stop)

    def _is_table(self) -> bool:
        if self.at + 1 >= len(self.lines) or "|" not in self._line(self.at):
            return False
        below = self._line(self.at + 1)
        return "|" in below and bool(_DELIMITER_ROW.match(below))

    def _table(self) -> None:
        stop = self.at + 2
        while stop < len(self.lines) and "|" in self._line(stop):
            stop += 1
        self._emit("table", stop, header_lines=2)

    def _indented_code(self) -> None:
        stop = self.at + 1
        while stop < len(self.lines) and (not self._line(stop).strip() or self._line(stop).startswith(("    ", "\t"))):
            stop += 1
        self._emit("code", stop)

    def _paragraph(self) -> None:
        stop = self.at + 1
        while stop < len(self.lines):
            line = self._line(stop)
            if underline := _SETEXT.match(line):
                self._emit("heading", stop + 1, level=1 if underline.group(1)[0] == "=" else 2)
                return
            if not line.strip() or _ATX.match(line) or _FENCE.match(line) or _RULE.match(line) or _ITEM.match(line):
                break
            stop += 1
        self._emit("paragraph", stop)
