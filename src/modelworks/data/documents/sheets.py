"""Spreadsheets: a page a visible sheet; values as their cells show them, formulas by their saved results."""

from __future__ import annotations

import datetime
import posixpath
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from modelworks.data.document import Document
from modelworks.data.documents.build import Builder, one_of
from modelworks.data.documents.office import container, parse_xml, shown_number

_MAX_CELLS = 2_000_000
"""Filled cells read from one workbook; a million-row export beyond that is data, not a document."""
_MAX_EMPTY_ROWS = 1_048_576
_DEFAULT_NAME = re.compile(r"(Sheet|Tabelle|Feuil|Hoja|Foglio|Лист|シート|工作表)\s*\d*")
_UNSAVED_FORMULA = re.compile(rb"</f>\s*(?:<v\s*/>|<v></v>)?\s*</c>|<f>[^<]*</f></c>")


def read(data: bytes, suffix: str) -> Document:
    import openpyxl

    stream = container(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openpyxl tells of every extension that it would not write back
        return _read(openpyxl.load_workbook(stream, read_only=True, data_only=True), stream)


def _read(workbook: Any, stream: Any) -> Document:
    builder = Builder("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")
    builder.title = workbook.properties.title or ""
    budget = _Budget()
    for sheet in workbook.worksheets:
        if sheet.sheet_state != "visible":
            builder.notes.append(f"hidden sheet {sheet.title!r} left out")
            continue
        builder.page(sheet.title)
        headed = bool(_DEFAULT_NAME.fullmatch(sheet.title))
        for group in _groups(_rows(sheet, budget)):
            if not headed:
                builder.block("heading", sheet.title, level=1)
                headed = True
            _add(builder, group)
        for comment in _comments(stream, sheet):
            builder.block("paragraph", comment)
        if budget.spent:
            builder.notes.append(f"only the first {_MAX_CELLS:,} cells were read, up to sheet {sheet.title!r}")
            break
    if unsaved := _unsaved_formulas(stream):
        builder.notes.append(
            f"{one_of(unsaved, 'formula')} without a saved result left out; save it in a spreadsheet program"
        )
    return builder.document()


class _Budget:
    """How many more cells, and rows without any, are read."""

    def __init__(self) -> None:
        self.cells = _MAX_CELLS
        self.empty_rows = _MAX_EMPTY_ROWS

    @property
    def spent(self) -> bool:
        return self.cells <= 0 or self.empty_rows <= 0


def _rows(sheet: Any, budget: _Budget) -> Iterator[list[str]]:
    sheet.reset_dimensions()  # the declared size may be a lie: XFD1048576 for three cells
    for row in sheet.iter_rows():
        texts = [_shown(cell) for cell in row]
        filled = sum(map(bool, texts))
        budget.cells -= filled
        budget.empty_rows -= not filled
        if budget.spent:
            return
        yield texts


def _groups(rows: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    """Runs of rows between empty ones."""
    group: list[list[str]] = []
    for row in rows:
        if any(row):
            group.append(row)
        elif group:
            yield group
            group = []
    if group:
        yield group


def _add(builder: Builder, rows: list[list[str]]) -> None:
    """A group is a table under the single cells at its top (its caption); a group of single cells is text."""
    first = next((i for i, row in enumerate(rows) if sum(map(bool, row)) > 1), len(rows))
    builder.block("paragraph", "\n".join(next(filter(None, row)) for row in rows[:first]))
    if first < len(rows):
        left = min(next(i for i, text in enumerate(row) if text) for row in rows[first:])
        builder.table([row[left:] for row in rows[first:]])


def _shown(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return shown_number(value, cell.number_format or "General")
    if isinstance(value, datetime.datetime):
        whole_day = value.time() == datetime.time() and "h" not in (cell.number_format or "").lower()
        return value.date().isoformat() if whole_day else value.isoformat(" ", "minutes")
    return str(value)


def _comments(stream: Any, sheet: Any) -> Iterator[str]:
    """The comments on a sheet's cells, which openpyxl does not give in its reading mode."""
    path = sheet._worksheet_path.lstrip("/")
    folder, name = posixpath.split(path)
    with zipfile.ZipFile(stream) as archive:
        relations = f"{folder}/_rels/{name}.rels"
        if relations not in archive.namelist():
            return
        for relation in parse_xml(archive.read(relations)):
            if not relation.get("Type", "").endswith("/comments"):
                continue
            target = posixpath.normpath(posixpath.join("/", folder, relation.get("Target", "")))
            root = parse_xml(archive.read(target.lstrip("/")))
            authors = [author.text or "" for author in root.iter("{*}author")]
            for comment in root.iter("{*}comment"):
                number = comment.get("authorId", "")
                author = authors[int(number)] if number.isdigit() and int(number) < len(authors) else ""
                text = "".join(t.text or "" for t in comment.iter("{*}t")).strip()
                yield f"Comment on {comment.get('ref', '')}{f' by {author}' if author else ''}: {text}"


def _unsaved_formulas(stream: Any) -> int:
    """Formulas that no program has calculated yet: openpyxl gives them as empty cells."""
    with zipfile.ZipFile(stream) as archive:
        sheets = [
            part
            for part in archive.infolist()
            if part.filename.startswith("xl/worksheets/") and part.file_size < 1 << 26
        ]
        return sum(len(_UNSAVED_FORMULA.findall(archive.read(part))) for part in sheets)
