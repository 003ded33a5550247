"""Records that only grow: one JSON object a line, each bound to the line before it.

A line's `hash` is the SHA-256 of the hash before it and of all else that the line says. So a line that was edited,
taken out or put elsewhere is found by anybody who reads the file; lines cut off at its end are, where the last hash is
kept elsewhere. The first line says what the records are of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import filelock

from modelworks.core.errors import ConfigError, DataError

_GENESIS = "0" * 64


class Records(NamedTuple):
    """What a journal holds. `whole` are the bytes of its whole lines; what stands behind them was torn off."""

    about: dict[str, Any]
    lines: list[dict[str, Any]]
    last_hash: str
    whole: int


def read_journal(path: str | Path) -> Records:
    """Read and check every line. A last line without its end is passed over: a process was killed while it wrote.

    Raises ConfigError where there is no such file, and DataError, with the line's number, for one that is damaged or
    does not belong behind the one before it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    whole = data[: data.rfind(b"\n") + 1]
    lines: list[dict[str, Any]] = []
    previous = _GENESIS
    for number, text in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
            stated = line.pop("hash")
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: line {number} is no record: {error}") from error
        if stated != (previous := _hash(previous, line)):
            raise DataError(f"{path}: line {number} was changed, or one before it was taken out")
        lines.append(line)
    return Records(lines[0] if lines else {}, lines[1:], previous, len(whole))


class Journal:
    """A file of records to add to, used as a context, within which no other process may write there.

    `about` is its first line. What is there already stays and is in `records`; a torn last line is cut off. Raises
    ConfigError for a file whose first line says something else, naming what, and what `read_journal` raises.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = Path(path), dict(about)
        self.records: list[dict[str, Any]] = []
        self._last = _GENESIS
        self._lock = filelock.FileLock(self.path.with_suffix(".lock"), timeout=0)

    def append(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write a record, with the time, and hand it to the system before returning: a killed process keeps it."""
        line = {**record, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self._write(line)
        self.records.append(line)
        return line

    def _write(self, line: Mapping[str, Any]) -> None:
        self._last = _hash(self._last, line)
        self._file.write(json.dumps({**line, "hash": self._last}, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise ConfigError(f"{self.path}: another process is writing it; name another folder, or wait") from None
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _open(self) -> None:
        found = read_journal(self.path) if self.path.exists() else Records({}, [], _GENESIS, 0)
        if found.about:
            stated = json.loads(json.dumps(self.about))
            differing = [key for key in sorted(stated.keys() | found.about.keys()) if key not in ("time", "versions")]
            if other := [key for key in differing if stated.get(key) != found.about.get(key)]:
                raise ConfigError(
                    f"{self.path}: these are the records of another constitution or model: they differ in "
                    f"{', '.join(other)}; name a new folder"
                )
        self._file = self.path.open("r+" if self.path.exists() else "w", encoding="utf-8")
        self._file.seek(found.whole)
        self._file.truncate()
        self.records, self._last = found.lines, found.last_hash
        if not found.about:
            self._write({**self.about, "time": datetime.now(UTC).isoformat(timespec="milliseconds")})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._lock.release()


def _hash(previous: str, line: Mapping[str, Any]) -> str:
    said = json.dumps(line, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{previous}\n{said}".encode()).hexdigest()
