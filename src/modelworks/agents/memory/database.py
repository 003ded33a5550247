"""The SQLite file that runs and facts are remembered in, and how something is forgotten so that it is gone.

Three things keep deleted words in a file: SQLite leaves freed pages as they are, FTS5 only marks what it deletes, and
the write-ahead log holds earlier pages. So pages are overwritten, the index is made anew, and the log is emptied.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from modelworks.core.errors import StoreError
from modelworks.core.sqlite import enable_wal, may_be_sqlite, statements, user_errors
from modelworks.text.words import TOKENIZER, cjk_terms, index_form

_VERSION: Final = 1
_APPLICATION: Final = 0x4D57_414D  # "MWAM", in the file's header: this SQLite file is one of ours
_PATIENCE_S: Final = 10.0  # that readers get to end before the log is emptied

_SCHEMA: Final = f"""
CREATE TABLE episodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL UNIQUE,
    task TEXT NOT NULL,
    outcome TEXT NOT NULL,
    text TEXT NOT NULL,
    lessons TEXT NOT NULL,
    origins TEXT NOT NULL,
    seconds REAL NOT NULL,
    created REAL NOT NULL
);
CREATE VIRTUAL TABLE episodes_fts USING fts5(words, cjk, tokenize = '{TOKENIZER}');

CREATE TABLE facts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    text TEXT NOT NULL UNIQUE,
    origins TEXT NOT NULL,
    created REAL NOT NULL,
    embedder TEXT,
    vector BLOB
);
CREATE VIRTUAL TABLE facts_fts USING fts5(words, cjk, tokenize = '{TOKENIZER}');
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""

Self = TypeVar("Self", bound="Database")


class Database:
    """One connection to the file, which threads share and other processes may have open as well."""

    def __init__(
        self, path: str | Path, *, busy_timeout_s: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        """Open the file, made where it is missing.

        Raises StoreError for a file that is another tool's, damaged, locked for longer than the timeout, in a place
        that cannot be written, or of a newer modelworks.
        """
        self.path = Path(path).expanduser()
        self.clock = clock
        self._lock = threading.RLock()
        with user_errors(self.path):
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
            elif not may_be_sqlite(self.path):
                raise StoreError(f"{self.path} is no agent's memory: choose another file")
            self._connection = sqlite3.connect(
                self.path,
                timeout=busy_timeout_s,
                isolation_level=None,  # transactions are begun explicitly
                check_same_thread=False,  # the lock serialises
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        """Check whose file it is, and make the tables in a new one."""
        execute = self._connection.execute
        version = execute("PRAGMA user_version").fetchone()[0]
        tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise StoreError(f"{self.path} is no agent's memory: choose another file")
        if version > _VERSION:
            raise StoreError(f"{self.path} was made by a newer modelworks: upgrade modelworks")
        execute("PRAGMA secure_delete = ON")
        enable_wal(self._connection)
        if version == _VERSION:
            return
        with self.transaction():
            if execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was faster
                for statement in statements(_SCHEMA):
                    execute(statement)

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        with self._lock:
            self._connection.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Every row of a query."""
        with self._lock, user_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: waits for other writers, and commits whole or not at all."""
        with self._lock, user_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise

    def index(self, connection: sqlite3.Connection, table: str, row: int, text: str) -> None:
        """Have a row's text found by its words."""
        form = index_form(text)
        connection.execute(f"DELETE FROM {table}_fts WHERE rowid = ?", (row,))
        connection.execute(
            f"INSERT INTO {table}_fts (rowid, words, cjk) VALUES (?, ?, ?)", (row, form, cjk_terms(form))
        )

    def erase(self, table: str, ids: Sequence[int]) -> int:
        """Delete rows so that no byte of them is left in the file or its log; how many there were.

        Raises StoreError where another process has kept the file open for reading all the while: the rows are gone
        then, but not yet overwritten.
        """
        rows = [(index,) for index in ids]
        with self.transaction() as connection:
            gone = connection.executemany(f"DELETE FROM {table} WHERE id = ?", rows).rowcount if rows else 0
            connection.executemany(f"DELETE FROM {table}_fts WHERE rowid = ?", rows)
            connection.execute(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')")
        self._empty_log()
        return gone

    def _empty_log(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        while self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            if time.monotonic() > until:
                raise StoreError(
                    f"{self.path}: another process reads it, so what was forgotten is not overwritten yet: "
                    "forget again when it has ended"
                )
            time.sleep(0.05)


def mentions(text: str, part: str) -> bool:
    """Whether a text has a part in it, whatever the case and the spaces; a blank part is in none."""
    tidied = " ".join(part.split()).casefold()
    return bool(tidied) and tidied in " ".join(text.split()).casefold()
