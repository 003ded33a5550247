"""What every SQLite file of ours needs: whether it is one, its tables, transactions, and errors that say what to do."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from modelworks.core.errors import StoreError

IN_MEMORY: Final = ":memory:"
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


@dataclass(frozen=True, slots=True)
class Layout:
    """What a kind of file of ours holds."""

    what: str
    """What other files are not, for messages: "a store of comparisons"."""
    application: int
    """In the file's header: this SQLite file is one of ours."""
    schema: str
    version: int = 1
    settings: tuple[str, ...] = ()
    """Statements for every connection, such as "PRAGMA foreign_keys = ON"."""


class Database:
    """One connection to a file of a layout, which threads share and other processes may have open as well."""

    def __init__(self, path: str | Path, layout: Layout, *, busy_timeout_s: float = 60.0) -> None:
        """Open the file, made where it is missing; ":memory:" is one that is not kept.

        Raises StoreError for a file that is another tool's, damaged, locked for longer than the timeout, in a place
        that cannot be written, or of a newer modelworks.
        """
        self.path = Path(path).expanduser()
        self._layout = layout
        self._lock = threading.RLock()
        is_kept = str(path) != IN_MEMORY
        with user_errors(self.path):
            if is_kept and not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
            elif is_kept and not may_be_sqlite(self.path):
                raise StoreError(f"{self.path} is not {layout.what}: choose another file")
            self._connection = sqlite3.connect(
                self.path if is_kept else IN_MEMORY,
                timeout=busy_timeout_s,
                isolation_level=None,  # transactions are begun explicitly
                check_same_thread=False,  # the lock serialises
            )
            try:
                self._prepare(is_kept)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, is_kept: bool) -> None:
        """Check whose file it is, and make the tables in a new one."""
        execute, layout = self._connection.execute, self._layout
        version = execute("PRAGMA user_version").fetchone()[0]
        tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and execute("PRAGMA application_id").fetchone()[0] != layout.application:
            raise StoreError(f"{self.path} is not {layout.what}: choose another file")
        if version > layout.version:
            raise StoreError(f"{self.path} was made by a newer modelworks: upgrade modelworks")
        for setting in layout.settings:
            execute(setting)
        if is_kept:
            enable_wal(self._connection)
        if version == layout.version:
            return
        with self.transaction() as connection:
            if execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was faster
                for statement in statements(layout.schema):
                    execute(statement)
                self._fill(connection)
                execute(f"PRAGMA application_id = {layout.application}")
                execute(f"PRAGMA user_version = {layout.version}")

    def _fill(self, connection: sqlite3.Connection) -> None:
        """What a new file holds beside its tables, in the same transaction."""

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Every row of a query."""
        with self._lock, user_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, or a part of the one that is open: waits for other writers, commits whole or not."""
        with self._lock, user_errors(self.path):
            is_part = self._connection.in_transaction  # of this thread's, who has the lock
            if is_part:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise
