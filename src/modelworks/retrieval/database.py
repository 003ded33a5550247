"""The SQLite file under a collection: its schema, transactions, revision, and errors that say what to do."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from modelworks.core.errors import StoreError
from modelworks.core.sqlite import enable_wal, may_be_sqlite, primary_code, statements, user_errors
from modelworks.retrieval import lexical
from modelworks.text.words import TOKENIZER

SCHEMA_VERSION = 2
APPLICATION_ID = 0x4D57_4B53  # "MWKS", in the file's header: this SQLite file is one of ours
DATABASE = "collection.db"
VECTORS = "vectors"
"""Sub-folder of the approximate index, see `projection`."""

_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('revision', '0');

CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    root TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('ok', 'skipped', 'excluded')),
    reason TEXT NOT NULL,
    content_hash BLOB,
    size INTEGER,
    mtime_ns INTEGER,
    media_type TEXT NOT NULL,
    title TEXT NOT NULL,
    notes TEXT NOT NULL,
    pages TEXT NOT NULL,
    text TEXT NOT NULL
);

-- AUTOINCREMENT: the id of a deleted chunk never comes back as another chunk, so a stale id finds nothing.
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document_id INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    first_page INTEGER NOT NULL,
    last_page INTEGER NOT NULL,
    text_hash TEXT NOT NULL,
    title TEXT NOT NULL,
    heading TEXT NOT NULL,
    index_text TEXT NOT NULL,
    cjk TEXT NOT NULL,
    statements TEXT NOT NULL,
    UNIQUE (document_id, ordinal)
);
CREATE INDEX chunks_by_text ON chunks (text_hash);

CREATE TABLE embeddings (text_hash TEXT NOT NULL UNIQUE, vector BLOB NOT NULL);

CREATE VIRTUAL TABLE chunks_fts USING fts5 (
    {", ".join(lexical.COLUMN_WEIGHTS)}, content = 'chunks', content_rowid = 'id', tokenize = '{TOKENIZER}'
);
CREATE TRIGGER chunks_after_insert AFTER INSERT ON chunks BEGIN
    INSERT INTO chunks_fts (rowid, title, heading, index_text, cjk)
    VALUES (new.id, new.title, new.heading, new.index_text, new.cjk);
END;
CREATE TRIGGER chunks_after_delete AFTER DELETE ON chunks BEGIN
    INSERT INTO chunks_fts (chunks_fts, rowid, title, heading, index_text, cjk)
    VALUES ('delete', old.id, old.title, old.heading, old.index_text, old.cjk);
END;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class DamagedError(StoreError):
    """The database or its word index contradicts itself; it can be made anew from the documents."""


class OldSchemaError(DamagedError):
    """An older modelworks made the database."""


class Database:
    """The database of one collection; safe to share between threads, and files between processes."""

    def __init__(self, folder: Path, *, busy_timeout_s: float = 60.0) -> None:
        """Open the collection in `folder`, made where it is missing.

        Raises StoreError where the folder cannot be used, or its database is no collection, damaged, locked for longer
        than the timeout, or of a newer modelworks. A collection on read-only media opens for reading.
        """
        self.folder = folder
        self.path = folder / DATABASE
        self._lock = threading.RLock()
        with _user_errors(self.path):
            if folder.exists() and not folder.is_dir():
                raise StoreError(f"{folder} is a file; a collection is a folder: choose another path")
            folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not may_be_sqlite(self.path):
                raise StoreError(f"{self.path}: {_ADVICE[sqlite3.SQLITE_NOTADB]}")
            self._connection = self._connect(busy_timeout_s)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _connect(self, busy_timeout_s: float) -> sqlite3.Connection:
        def connect(options: str) -> sqlite3.Connection:
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?{options}",
                uri=True,
                timeout=busy_timeout_s,
                isolation_level=None,  # transactions are begun explicitly
                check_same_thread=False,  # the lock serialises
            )
            try:
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: safe against kills, no fsync a commit
                connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
                connection.execute("PRAGMA schema_version")  # the first read: fails here where the file is unusable
            except BaseException:
                connection.close()
                raise
            return connection

        try:
            return connect("mode=rwc")
        except sqlite3.OperationalError as error:
            if not self.path.exists() or primary_code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
        # Read-only media cannot hold the -shm file that WAL needs; without a -wal file nothing is missed.
        wal = self.path.with_name(self.path.name + "-wal")
        return connect("mode=ro" if wal.exists() else "mode=ro&immutable=1")

    def _prepare(self) -> None:
        """Check whose file it is, and make the tables in a new one."""
        # In this order: another process may be making the tables, which sets all three at once.
        version = self._value("PRAGMA user_version")
        tables = self._value("SELECT count(*) FROM sqlite_master")
        if tables and self._value("PRAGMA application_id") != APPLICATION_ID:
            raise StoreError(f"{self.path} is not a modelworks collection: choose another folder")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was made by a newer modelworks (schema {version}, this one reads {SCHEMA_VERSION}): "
                "upgrade modelworks, or index into a new collection"
            )
        if version == SCHEMA_VERSION:
            return
        if version:
            raise OldSchemaError(
                f"{self.path} was made by an older modelworks (schema {version}, this one reads {SCHEMA_VERSION}): "
                "run `modelworks index FOLDER --rebuild`"
            )
        enable_wal(self._connection)
        with self._transaction():
            if self._value("PRAGMA user_version") == 0:  # else another process was faster
                for statement in statements(_SCHEMA):
                    self._connection.execute(statement)

    @staticmethod
    def discard(folder: Path) -> None:
        """Delete the files of a collection, whatever state they are in; others in its folder stay."""
        with _user_errors(folder / DATABASE):
            for suffix in ("", "-wal", "-shm"):
                (folder / f"{DATABASE}{suffix}").unlink(missing_ok=True)
            shutil.rmtree(folder / VECTORS, ignore_errors=True)

    def close(self) -> None:
        """Close the database; calling it again does nothing."""
        with self._lock:
            self._connection.close()

    # Reading

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Every row of a query."""
        with self._lock, _user_errors(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def _value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        row = self._connection.execute(sql, parameters).fetchone()
        return None if row is None else row[0]

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of a query's first row; None where there is no row."""
        with self._lock, _user_errors(self.path):
            return self._value(sql, parameters)

    def revision(self) -> int:
        """A number that grows with every change by any process; caches are valid while it stands."""
        return int(self.value("SELECT value FROM meta WHERE key = 'revision'"))

    def meta(self, key: str) -> str | None:
        value = self.value("SELECT value FROM meta WHERE key = ?", (key,))
        return None if value is None else str(value)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Reads that all see one state of the database."""
        with self._lock, _user_errors(self.path):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("COMMIT")

    def checkpoint(self) -> None:
        """Move the log's content into the database and empty the log, unless another process is reading."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _transaction(self, *, moves: bool = True) -> Iterator[sqlite3.Connection]:
        """One write transaction: waits for other writers, commits whole or not at all; `moves` the revision."""
        with self._lock, _user_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                before = self._connection.total_changes
                yield self._connection
                if moves and self._connection.total_changes != before:
                    self._connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'revision'")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise

    # The word index

    def words_match(self) -> bool:
        """Whether the word index is sound and says what the chunks say."""
        try:
            with self._transaction(moves=False) as connection:
                # Rank 1: compare with the content table too (sqlite.org/fts5.html, "The 'integrity-check' Command").
                connection.execute("INSERT INTO chunks_fts (chunks_fts, rank) VALUES ('integrity-check', 1)")
        except DamagedError:
            return False
        return True

    def rebuild_words(self) -> None:
        """Make the word index anew from the chunks."""
        with self._transaction() as connection:
            connection.execute("INSERT INTO chunks_fts (chunks_fts) VALUES ('rebuild')")


_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space and run again; all that was indexed before is kept",
    sqlite3.SQLITE_READONLY: "it is read-only: change its permissions, or use another folder for the collection",
    sqlite3.SQLITE_PERM: "permission denied: change its permissions, or use another folder for the collection",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check its permissions, or use another folder for the collection",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database: move it away, or use another folder for the collection",
    sqlite3.SQLITE_CORRUPT: "it is damaged: run `modelworks docs doctor --repair`, and where that does not help "
    "`modelworks index FOLDER --rebuild`; the documents themselves are safe",
    sqlite3.SQLITE_TOOBIG: "a document is larger than SQLite can hold (1 GB of text): leave it out",
}


def _user_errors(path: Path) -> AbstractContextManager[None]:
    return user_errors(path, _ADVICE, place="use another folder for the collection", damaged=DamagedError)
