"""Rows of training data from files: JSONL, JSON, Parquet and plain text, each also compressed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from modelworks.core.errors import DataError
from modelworks.data.packed import DAMAGED, PACKED, unpacked

SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".parquet", ".txt")
DROPS, REPORT = "dropped.jsonl.gz", "report.json"
"""What a prepared corpus says of itself, beside its texts."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of a file, and where it stands: `chats.jsonl:17` (in Parquet the row's number, from 1)."""

    place: str
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that cannot be used, and why."""

    place: str
    reason: str


def read_rows(path: str | Path, broken: list[Broken] | None = None) -> Iterator[FileRow]:
    """The rows of a file, in order.

    JSONL has an object a line, JSON a list of objects (a `.json` file whose first character is no bracket is read as
    JSONL), Parquet a row a row; a `.txt` file is one row, `{"text": ...}`. A line that is no JSON object raises
    DataError, or is put into `broken` and passed over where that list is given. What is damaged as a whole, a list cut
    short or a compressed file, raises in either case, as nobody can say what is missing.
    """
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in PACKED else (suffixes or [""])[-1]
    if kind not in SUFFIXES:
        raise DataError(f"{path}: training data is {', '.join(SUFFIXES)}, also with {', '.join(PACKED)} behind it")
    try:
        with _opened(path) as stream:
            if kind == ".parquet":
                yield from _parquet(stream, path)
            elif kind == ".txt":
                yield FileRow(f"{path}:1", {"text": _decoded(stream.read(), path)})
            elif kind == ".json" and _first_character(stream) == b"[":
                yield from _json(_decoded(stream.read(), path), path, broken)
            else:
                yield from _jsonl(stream, path, broken)
    except DAMAGED as error:
        raise DataError(f"{path}: damaged or cut short: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        if suffix not in PACKED:
            yield file
            return
        with unpacked(file, suffix) as stream:
            yield stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[arg-type]


def _first_character(stream: io.BufferedReader) -> bytes:
    """The first byte that is no space, without reading on; what is longer than the buffer is no list."""
    return stream.peek(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8") from error


def _report(broken: list[Broken] | None, place: str, reason: str) -> None:
    if broken is None:
        raise DataError(f"{place}: {reason}")
    broken.append(Broken(place, reason))


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return "not valid JSON: nested too deeply" if isinstance(error, RecursionError) else f"not valid JSON: {error}"


def _jsonl(stream: IO[bytes], path: Path, broken: list[Broken] | None) -> Iterator[FileRow]:
    for number, line in enumerate(stream, 1):
        place = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            _report(broken, place, _reason(error))
            continue
        if isinstance(value, dict):
            yield FileRow(place, value)
        else:
            _report(broken, place, f"expected a JSON object, found {type(value).__name__}")


def _json(text: str, path: Path, broken: list[Broken] | None) -> Iterator[FileRow]:
    """The objects of a list, one at a time, so that each knows its line."""
    decode = json.JSONDecoder().raw_decode
    at, line, counted = _skipped(text, text.index("[") + 1), 1, 0
    while not text.startswith("]", at):
        line, counted = line + text.count("\n", counted, at), at
        place = f"{path}:{line}"
        try:
            value, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            # The decoder's own position is better than the row's: rows may be long.
            where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else place
            raise DataError(f"{where}: {_reason(error)}") from error
        if isinstance(value, dict):
            yield FileRow(place, value)
        else:
            _report(broken, place, f"expected a JSON object, found {type(value).__name__}")
        at = _skipped(text, at)
        if text.startswith(",", at):
            at = _skipped(text, at + 1)
        elif not text.startswith("]", at):
            line += text.count("\n", counted, at)
            raise DataError(f"{path}:{line}: not valid JSON: the list is cut short or lacks a comma")


def _skipped(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _parquet(stream: io.BufferedReader, path: Path) -> Iterator[FileRow]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'modelworks[corpus]'") from None
    source = stream if path.suffix.lower() == ".parquet" else io.BytesIO(stream.read())  # its index is at its end
    number = 0
    try:
        with parquet.ParquetFile(source) as table:
            for batch in table.iter_batches(batch_size=256):
                for value in batch.to_pylist():
                    number += 1
                    yield FileRow(f"{path}:{number}", {key: _without_nulls(item) for key, item in value.items()})
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: damaged or cut short: {str(error).partition(chr(10))[0]}") from error


def _without_nulls(value: Any) -> Any:
    """Parquet has one schema for all rows: what a row's objects lack of it comes as null, and goes again here."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
