from __future__ import annotations

import errno
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from modelworks.core.errors import StoreError
from modelworks.core.sqlite import (
    IN_MEMORY,
    Database,
    Layout,
    enable_wal,
    may_be_sqlite,
    primary_code,
    statements,
    user_errors,
)


class Damaged(StoreError):
    pass


def test_only_what_begins_as_a_database_may_be_opened_as_one(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    assert may_be_sqlite(path)
    path.write_bytes(b"")
    assert may_be_sqlite(path)
    path.write_bytes(b"my thesis")
    assert not may_be_sqlite(path)


def test_a_script_is_cut_at_its_statements_and_not_in_its_triggers() -> None:
    trigger = "CREATE TRIGGER a AFTER INSERT ON t BEGIN\n  DELETE FROM t;\n  SELECT 1;\nEND;\n"
    assert list(statements(f"CREATE TABLE t (x);\n{trigger}")) == ["CREATE TABLE t (x);\n", trigger]


def test_the_log_is_switched_on(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db")
    enable_wal(connection)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_errors_say_what_to_do_and_defects_stay_defects(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"SQLite format 3\0" + b"?" * 4096)
    with pytest.raises(StoreError, match=r"x\.db: it is no SQLite database: move it away"), user_errors(path):
        sqlite3.connect(path).execute("PRAGMA schema_version")
    damaged = sqlite3.DatabaseError("malformed")
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT | 1 << 8
    assert primary_code(damaged) == sqlite3.SQLITE_CORRUPT
    with (
        pytest.raises(Damaged, match="mend it"),
        user_errors(path, {sqlite3.SQLITE_CORRUPT: "mend it"}, damaged=Damaged),
    ):
        raise damaged
    with pytest.raises(StoreError, match="No space left on device; go away"), user_errors(path, place="go away"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(sqlite3.OperationalError, match="no such table"), user_errors(path):
        sqlite3.connect(":memory:").execute("SELECT * FROM absent")


LAYOUT = Layout("a list", 0x4D57_5445, "CREATE TABLE items (name TEXT);", settings=("PRAGMA synchronous = FULL",))


def test_a_database_is_made_once_and_known_again(tmp_path):
    path = tmp_path / "new" / "list.db"
    with Database(path, LAYOUT) as made, Database(path, LAYOUT) as again:
        with made.transaction() as connection:
            connection.execute("INSERT INTO items VALUES ('a')")
        assert again.rows("SELECT name FROM items") == [("a",)]
        assert again.rows("PRAGMA synchronous") == [(2,)]
    for layout, said in ((replace(LAYOUT, application=1), "is not a list"), (replace(LAYOUT, version=0), "newer")):
        with pytest.raises(StoreError, match=said):
            Database(path, layout)


def test_a_transaction_is_whole_or_not_and_one_within_is_part_of_it():
    with Database(IN_MEMORY, LAYOUT) as database:

        def write_half() -> None:
            with database.transaction(), database.transaction() as inner:
                inner.execute("INSERT INTO items VALUES ('a')")
                raise KeyError

        with pytest.raises(KeyError):
            write_half()
        assert database.rows("SELECT * FROM items") == []
