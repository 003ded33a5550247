"""A mix of files as a stream of texts: documents, rows of JSONL and Parquet, compressed files, archives.

What cannot be read is reported in the same stream, as `Unread`, and never stops it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import zstandard

from modelworks.core.errors import ConfigError, DocumentError
from modelworks.data import documents
from modelworks.data.walk import walk

ROWS = (".jsonl", ".ndjson")
LINE_LIMIT = 64 << 20
"""Longest line of JSONL in bytes; a longer one is passed over unread."""


def _open_zst(file: Path | IO[bytes], mode: str = "rb") -> io.BufferedReader:
    stream = file.open("rb") if isinstance(file, Path) else file
    reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
    return io.BufferedReader(reader)


_OPENERS: Mapping[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zst,
}
_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, tarfile.TarError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a corpus."""

    text: str
    source: str
    """Where it stands: `notes/a.md`, `rows.jsonl:17`, `books.zip/emma.xhtml`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The other fields of its row, or what its file says of itself: `title`, `media_type`."""
    code: bool = False
    """Whether it is source code or data, of which rules for prose say nothing."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A file, a member of an archive or a row that gave no text, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class File:
    """A file to be read, and what it is called."""

    name: str
    """As the path was given, a folder's files below it; with forward slashes."""
    path: Path
    root: str = ""
    """The path that was given: the file itself, or a folder that it lies in."""


def find_files(paths: Sequence[str | os.PathLike[str]], *, skip: Path | None = None) -> tuple[list[File], list[Unread]]:
    """The files that `paths` name, folders walked, in order of the paths and then of their names, each file once.

    skip: a folder to leave out, such as the one that is written to.

    Raises:
        ConfigError: a path does not exist.
    """
    files: dict[Path, File] = {}
    unread = []
    for given in map(Path, paths):
        if given.is_dir():
            found = walk(given, skip=skip)
            prefix = given.as_posix().rstrip("/")
            for name in sorted(found.files):
                path = found.files[name]
                files.setdefault(path.resolve(), File(f"{prefix}/{name}", path.absolute(), given.as_posix()))
            unread += [Unread(f"{prefix}/{name}", reason) for name, reason in sorted(found.unreadable.items())]
        elif given.exists():
            files.setdefault(given.resolve(), File(given.as_posix(), given.absolute(), given.as_posix()))
        else:
            raise ConfigError(f"{given}: there is no such file or folder")
    return list(files.values()), unread


def read_texts(file: File, *, text_key: str = "text") -> Iterator[Text | Unread]:
    """The texts of one file, in order.

    A `.jsonl` or `.ndjson` file, plain or compressed (`.gz`, `.bz2`, `.xz`, `.zst`), gives one text a row, the string
    under `text_key`, and a `.parquet` file the same by column. A tar or zip archive gives the texts of its members,
    archives among them left out. Any other file is one document, read by `modelworks.data.documents`.
    """
    try:
        yield from _read(file, text_key)
    except DocumentError as error:
        yield Unread(file.name, str(error))
    except _DAMAGED as error:
        yield Unread(file.name, f"damaged or cut short: {_said(error)}")


def _read(file: File, text_key: str) -> Iterator[Text | Unread]:
    name = file.path.name.lower()
    suffix = file.path.suffix.lower()
    if name.endswith(_TARS):
        yield from _tar(file, text_key)
    elif suffix == ".zip":
        yield from _zip(file, text_key)
    elif suffix == ".parquet":
        yield from _parquet(file, text_key)
    elif suffix in ROWS:
        with file.path.open("rb") as lines:
            yield from read_rows(lines, file.name, text_key=text_key)
    elif suffix in _OPENERS:
        with _OPENERS[suffix](file.path, "rb") as stream:
            yield from _member(stream, file.name, file.path.stem, text_key)
    else:
        yield _text(documents.load(file.path), file.name)


def read_rows(lines: IO[bytes], name: str, *, text_key: str = "text") -> Iterator[Text | Unread]:
    """The texts of JSONL, each called by its line, counted from 1; broken lines are reported by number."""
    number = 0
    while line := lines.readline(LINE_LIMIT + 1):
        number += 1
        source = f"{name}:{number}"
        if len(line) > LINE_LIMIT:
            while not line.endswith(b"\n") and (line := lines.readline(1 << 20)):
                pass
            yield Unread(source, f"the line is longer than {LINE_LIMIT >> 20} MiB")
        elif line.strip():
            yield _row(line, source, text_key)


def _row(line: bytes, source: str, text_key: str) -> Text | Unread:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        detail = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8, or nested too deeply"
        return Unread(source, f"not valid JSON: {detail}")
    return _fields(row, source, text_key)


def _fields(row: Any, source: str, text_key: str) -> Text | Unread:
    if not isinstance(row, dict):
        return Unread(source, "not a JSON object")
    text = row.get(text_key)
    if not isinstance(text, str):
        return Unread(source, f"no string under {text_key!r}")
    if not text.strip():
        return Unread(source, f"nothing under {text_key!r}")
    return Text(text, source, {key: value for key, value in row.items() if key != text_key})


def _parquet(file: File, text_key: str) -> Iterator[Text | Unread]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise DocumentError("reading Parquet needs pyarrow: pip install 'modelworks[corpus]'") from None
    number = 0
    try:
        with parquet.ParquetFile(file.path) as table:
            if text_key not in table.schema_arrow.names:
                raise DocumentError(f"has no column {text_key!r}; there are: {', '.join(table.schema_arrow.names)}")
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield _fields(row, f"{file.name}:{number}", text_key)
    except pyarrow.ArrowException as error:
        raise DocumentError(f"damaged or cut short: {_said(error)}") from error


def _tar(file: File, text_key: str) -> Iterator[Text | Unread]:
    with _tar_stream(file.path) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and not _hidden(member.name):
                yield from _read_member(content, f"{file.name}/{member.name}", member.name, text_key)


@contextmanager
def _tar_stream(path: Path) -> Iterator[IO[bytes]]:
    # tarfile of Python 3.11 knows all compressions but Zstandard.
    with _open_zst(path) if path.suffix.lower() == ".zst" else path.open("rb") as stream:
        yield stream


def _zip(file: File, text_key: str) -> Iterator[Text | Unread]:
    with zipfile.ZipFile(file.path) as archive:
        for member in archive.infolist():
            if member.is_dir() or _hidden(member.filename):
                continue
            source = f"{file.name}/{member.filename}"
            if member.flag_bits & 1:
                yield Unread(source, "encrypted")
                continue
            try:
                with archive.open(member) as content:
                    yield from _read_member(content, source, member.filename, text_key)
            except (NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
                yield Unread(source, f"cannot be unpacked: {_said(error)}")


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _read_member(content: IO[bytes], source: str, name: str, text_key: str) -> Iterator[Text | Unread]:
    """The texts of an archive's member, whose faults are its own."""
    lower = name.lower()
    try:
        if lower.endswith((*_TARS, ".zip", ".parquet")):
            yield Unread(source, "an archive or a table within an archive is not read: unpack it first")
        elif (suffix := PurePosixPath(lower).suffix) in _OPENERS:
            with _OPENERS[suffix](content, "rb") as stream:
                yield from _member(stream, source, PurePosixPath(name).stem, text_key)
        else:
            yield from _member(content, source, name, text_key)
    except DocumentError as error:
        yield Unread(source, str(error))


def _member(content: IO[bytes], source: str, name: str, text_key: str) -> Iterator[Text | Unread]:
    """The texts of a stream of bytes that is called `name` where it was packed."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in ROWS:
        yield from read_rows(content, source, text_key=text_key)
        return
    data = content.read(documents.PACKED_LIMIT + 1)
    if len(data) > documents.PACKED_LIMIT:
        raise DocumentError(f"over the size limit of {documents.PACKED_LIMIT >> 20} MiB")
    yield _text(documents.read(data, suffix), source)


def _text(document: Any, source: str) -> Text:
    metadata = {"media_type": document.media_type}
    if document.title:
        metadata["title"] = document.title
    kinds: Iterable[str] = {block.kind for block in document.blocks}
    return Text(document.text, source, metadata, code=set(kinds) == {"code"})


def _said(error: BaseException) -> str:
    """An error's first line, or its name where it says nothing."""
    said = str(error.strerror if isinstance(error, OSError) and error.strerror else error).strip()
    return said.splitlines()[0][:200] if said else type(error).__name__
