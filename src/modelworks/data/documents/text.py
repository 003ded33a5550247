"""Plain text: the document's text is the file's, paragraphs are what blank lines separate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from modelworks.core.errors import DocumentError
from modelworks.data.document import Block, Document, Page
from modelworks.data.documents.build import blank_controls
from modelworks.data.documents.encoding import decode, encoding_note

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")
_BULLET = re.compile(r"[ \t]*(?:[-*+•‣◦▪–]|\d{1,3}[.)]|[a-zA-Z#][.)])[ \t]+\S")


def read(data: bytes, suffix: str) -> Document:
    text, notes = source_text(data)
    blocks = []
    for start, end in paragraphs(text, 0, len(text)):
        lines = [text[s:e] for s, e in lines_of(text, start, end)]
        is_list = len(lines) > 1 and bool(_BULLET.match(lines[0])) and any(map(_BULLET.match, lines[1:]))
        blocks.append(Block("list" if is_list else "paragraph", start, end))
    return source_document(text, blocks, "text/plain", notes=notes)


def source_text(data: bytes) -> tuple[str, tuple[str, ...]]:
    """The decoded file, character for character but for blanked controls, and the notes on its encoding.

    Raises:
        DocumentError: binary, or nothing but white space.
    """
    text, encoding = decode(data)
    text = blank_controls(text)
    if not text.strip():
        raise DocumentError("no text: the file holds only white space")
    return text, encoding_note(encoding)


def source_document(
    text: str, blocks: Sequence[Block], media_type: str, *, title: str = "", notes: tuple[str, ...] = ()
) -> Document:
    """A document whose text is its source, on one page."""
    return Document(text, (Page(1, 0, len(text)),), tuple(blocks), media_type, title, notes)


def lines_of(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span of each line of `text[start:end]`, without its line end."""
    while start < end:
        match = _LINE.match(text, start, end)
        assert match is not None
        yield start, start + len(match.group().rstrip("\r\n"))
        start = match.end()


def paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The spans of `text[start:end]` that blank lines separate, from the first to the last non-space character."""
    first = last = -1
    for line_start, line_end in lines_of(text, start, end):
        line = text[line_start:line_end]
        stripped = line.strip()
        if stripped:
            if first < 0:
                first = line_start + line.index(stripped[0])
            last = line_start + len(line.rstrip())
        elif first >= 0:
            yield first, last
            first = -1
    if first >= 0:
        yield first, last
