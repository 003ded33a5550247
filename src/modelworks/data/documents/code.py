"""Source code and configuration: the text is the file's, blocks begin where an unindented line follows a blank one."""

from __future__ import annotations

from modelworks.data.document import Block, Document
from modelworks.data.documents.text import lines_of, source_document, source_text

_MEDIA_TYPES = {
    ".py": "text/x-python",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".toml": "application/toml",
    ".sql": "application/sql",
    ".js": "text/javascript",
    ".css": "text/css",
}
_CLOSERS = ("}", ")", "]", "end", "#endif", "else", "elif", "except", "finally", "</")


def read(data: bytes, suffix: str) -> Document:
    text, notes = source_text(data)
    blocks: list[Block] = []
    start = end = -1
    after_blank = True
    for line_start, line_end in lines_of(text, 0, len(text)):
        line = text[line_start:line_end]
        if not line.strip():
            after_blank = True
            continue
        top_level = not line[0].isspace() and not line.startswith(_CLOSERS)
        if start >= 0 and after_blank and top_level:
            blocks.append(Block("code", start, end))
            start = -1
        if start < 0:
            start = line_start
        end = line_end
        after_blank = False
    blocks.append(Block("code", start, end))
    return source_document(text, blocks, _MEDIA_TYPES.get(suffix, f"text/x-{suffix[1:]}"), notes=notes)
