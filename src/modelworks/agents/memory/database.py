"""The SQLite file that runs and facts are remembered in, and how something is forgotten so that it is gone.

Three things keep deleted words in a file: SQLite leaves freed pages as they are, FTS5 only marks what it deletes, and
the write-ahead log holds earlier pages. So pages are overwritten, the index is made anew, and the log is emptied.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from modelworks.core.errors import StoreError
from modelworks.core.sqlite import Database, Layout
from modelworks.text.words import TOKENIZER, cjk_terms, index_form

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
"""
_LAYOUT: Final = Layout(
    what="an agent's memory",
    application=0x4D57_414D,  # "MWAM"
    schema=_SCHEMA,
    settings=("PRAGMA secure_delete = ON",),
)


class Remembered(Database):
    """The file, whose rows are found by their words and can be erased."""

    def __init__(
        self, path: str | Path, *, busy_timeout_s: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        """As `Database`; `clock` tells the time in seconds."""
        self.clock = clock
        super().__init__(path, _LAYOUT, busy_timeout_s=busy_timeout_s)

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
