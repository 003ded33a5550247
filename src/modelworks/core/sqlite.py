"""What every SQLite file of ours needs: whether it is one, write-ahead logging, and errors that say what to do."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from modelworks.core.errors import StoreError

_MAGIC: Final = b"SQLite format 3\0"
_BUSY: Final = "another process has been writing for too long: wait for it to end, or stop it"
_ADVICE: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space and run again; all that was written before is kept",
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_READONLY: "it is read-only: change its permissions, or choose another place",
    sqlite3.SQLITE_PERM: "permission denied: change its permissions, or choose another place",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check its permissions, or choose another place",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database: move it away, or choose another place",
    sqlite3.SQLITE_CORRUPT: "it is damaged: bring back a copy, or move it away and begin anew",
    sqlite3.SQLITE_IOERR: "reading or writing failed: check the disk",
    sqlite3.SQLITE_TOOBIG: "a text is larger than SQLite can hold (1 GB): leave it out",
}


def may_be_sqlite(path: Path) -> bool:
    """Whether a file is empty or begins as a database does.

    SQLite takes a file of less than its first page for a new database, and writes over it.
    """
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) in (b"", _MAGIC)


def statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would commit the transaction that they belong to."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def enable_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite does not wait for other openers here, so this does."""
    for attempt in range(100):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or attempt == 99:
                raise
            time.sleep(0.05)


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's code of an error, without what its extended code adds; 0 for the module's own errors."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextmanager
def user_errors(
    path: Path,
    advice: Mapping[int, str] = _ADVICE,
    *,
    place: str = "choose another place",
    damaged: type[StoreError] = StoreError,
) -> Iterator[None]:
    """Turn what the environment does to a database into a StoreError that says what to do; `damaged` where it is.

    `advice` says of codes what is to be done, and `place` of a path, where that is not what serves everybody.
    """
    try:
        yield
    except sqlite3.Error as error:
        said = advice.get(primary_code(error), _ADVICE.get(primary_code(error)))
        if said is None:
            raise
        kind = damaged if primary_code(error) == sqlite3.SQLITE_CORRUPT else StoreError
        raise kind(f"{path}: {said}") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; {place}") from error
