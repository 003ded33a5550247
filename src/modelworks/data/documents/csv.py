"""CSV and TSV: the text is the file's; one table whose header row is its first record."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from modelworks.data.document import Block, Document
from modelworks.data.documents.text import source_document, source_text

_LARGEST_FIELD = 1 << 27
_QUOTED = re.compile(r'"[^"]*(?:"|\Z)')
_DELIMITERS = ",;\t|"


def read(data: bytes, suffix: str) -> Document:
    text, notes = source_text(data)
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    delimiter = "\t" if suffix in (".tsv", ".tab") else _delimiter(text[start : start + 8192])
    header_end = _first_record_end(text, start, end, delimiter)
    block = Block("table", start, end, header_end=header_end)
    media_type = "text/tab-separated-values" if delimiter == "\t" else "text/csv"
    return source_document(text, [block], media_type, notes=notes)


def _delimiter(sample: str) -> str:
    """The candidate that most often stands in the first line outside of quotes; Sniffer fails on prose cells."""
    first = _QUOTED.sub("", sample).splitlines()[0]
    return max(_DELIMITERS, key=first.count)


def _first_record_end(text: str, start: int, end: int, delimiter: str) -> int | None:
    """Where the first record ends (it may hold quoted line ends); None where it is no header but numbers."""
    consumed = start

    def lines() -> Iterator[str]:
        nonlocal consumed
        while consumed < end:
            newline = text.find("\n", consumed, end)
            stop = end if newline < 0 else newline + 1
            line = text[consumed:stop]
            consumed = stop
            yield line

    csv.field_size_limit(_LARGEST_FIELD)  # the default of 128 KiB is an error on long cells
    record = next(csv.reader(lines(), delimiter=delimiter), [])
    header_end = start + len(text[start:consumed].rstrip())
    if header_end >= end or all(_is_number(cell) for cell in record):
        return None
    return header_end


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().replace(",", ".") or "nan")
    except ValueError:
        return False
    return True
