from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from modelworks.agents.tools import sql as module
from modelworks.agents.tools.sql import SqlError, sql, sql_write
from modelworks.core.errors import ConfigError


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT, total REAL)")
        connection.executemany("INSERT INTO orders (city, total) VALUES (?, ?)", [("Rome", 2.5), ("Oslo", None)])
        connection.execute('CREATE VIEW "big orders" AS SELECT * FROM orders WHERE total > 1')
    connection.close()
    return path


def test_a_database_is_asked(database: Path) -> None:
    tool = sql(database)
    assert 'Tables: "big orders"(id INTEGER, city TEXT, total REAL); orders(id INTEGER,' in tool.description
    assert tool.effects == {"reads"}
    assert tool.run(query="SELECT city, total FROM orders ORDER BY id").content == "city,total\nRome,2.5\nOslo,NULL"
    assert tool.run(query='SELECT count(*) AS n FROM "big orders"').content == "n\n1"
    assert tool.run(query="SELECT * FROM orders WHERE 0").content == "id,city,total\n(no rows)"


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM orders",
        "UPDATE orders SET total = 0",
        "INSERT INTO orders VALUES (9, 'x', 1)",
        "DROP TABLE orders",
        "CREATE TABLE other (a)",
        "CREATE TEMP TABLE other (a)",
        "CREATE VIRTUAL TABLE other USING fts5(a)",
        "ATTACH DATABASE '{other}' AS other",
        "VACUUM INTO '{other}'",
        "PRAGMA query_only = OFF",
        "PRAGMA table_info(orders)",
        "SELECT * FROM pragma_database_list",
        "SELECT load_extension('{other}')",
        "BEGIN IMMEDIATE",
        "REINDEX orders",
        "ANALYZE",
        "WITH gone AS (SELECT 1) DELETE FROM orders",
        "EXPLAIN DELETE FROM orders",
    ],
)
def test_what_is_no_question_is_refused(database: Path, tmp_path: Path, query: str) -> None:
    before = database.read_bytes()
    with pytest.raises(SqlError, match=r"not allowed|no question"):
        sql(database).run(query=query.format(other=tmp_path / "other"))
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["shop.db"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT 1; DROP TABLE orders", "one statement"),
        ("SELEC", "syntax error"),
        ("SELECT price FROM orders", "no such column"),
        ("", "one SELECT"),
        ("-- only a comment", "one SELECT"),
        ("SELECT 1\0; DROP TABLE orders", "null"),
        ("SELECT zeroblob(100000000)", "too large"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "overflow|depth|complex"),
    ],
)
def test_what_cannot_be_asked_says_why(database: Path, query: str, said: str) -> None:
    with pytest.raises(SqlError, match=said):
        sql(database).run(query=query)


def test_a_query_without_end_is_stopped(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    with pytest.raises(SqlError, match="longer than"):
        sql(database).run(query="WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c")


def test_rows_and_texts_are_cut(database: Path) -> None:
    numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 500) SELECT x, {} FROM c"
    many = sql(database).run(query=numbers.format("1")).content
    assert many.endswith("100,1\n[only the first 100 rows: use LIMIT, or count and group]")
    wide = sql(database).run(query=numbers.format("hex(zeroblob(1000))")).content
    assert "[cut after 31 rows" in wide
    assert "0..." in wide


def test_csv_files_are_tables(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,age,zip,height\nAnn,31,007,1.7\nBob,,010,2\n", encoding="utf-8-sig")
    (tmp_path / "cities 2024.csv").write_text('city;Name;name\n"a;b";x;\n', encoding="utf-8")
    (tmp_path / "readme.txt").write_text("no table")
    tool = sql(tmp_path)
    assert "cities_2024(city TEXT, Name TEXT, name_2 TEXT); people(name TEXT, age INTEGER, zip TEXT, height REAL)" in (
        tool.description
    )
    assert tool.run(query="SELECT * FROM people").content == "name,age,zip,height\nAnn,31,007,1.7\nBob,NULL,010,2.0"
    assert tool.run(query="SELECT city, name_2 FROM cities_2024").content == "city,name_2\na;b,NULL"
    assert sql(tmp_path / "people.csv").run(query="SELECT sum(age) FROM people").content == "sum(age)\n31"
    with pytest.raises(SqlError, match="not allowed"):
        tool.run(query="DELETE FROM people")


def test_a_ragged_csv_is_filled_up(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,,a\n1\n1,2,3,4\n"x\ny",,\n')
    assert sql(tmp_path / "a.csv").run(query="SELECT * FROM a").content == (
        'a,column2,a_2,column4\n1,NULL,NULL,NULL\n1,2,3,4\n"x\ny",NULL,NULL,NULL'
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.db", b"no database at all", "is no SQLite database"),
        ("a.db", b"SQLite format 3\0" + b"\xff" * 500, "a.db"),
        ("a.csv", b"", "is empty"),
    ],
)
def test_what_is_no_data_is_an_error(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        sql(tmp_path / name)


def test_data_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no SQLite database, no CSV"):
        sql(tmp_path / "none.db")
    with pytest.raises(ConfigError, match="no CSV files in it"):
        sql(tmp_path)


def test_rows_are_changed_by_a_tool_of_its_own(database: Path) -> None:
    tool = sql_write(database)
    assert tool.effects == {"reads", "writes"}
    assert tool.run(statement="UPDATE orders SET total = 3 WHERE city = 'Oslo'").content == "1 rows changed"
    assert tool.run(statement="INSERT INTO orders (city) VALUES ('Bern'), ('Nice')").content == "2 rows changed"
    assert tool.run(statement="DELETE FROM orders WHERE 0").content == "0 rows changed"
    assert sql(database).run(query="SELECT city, total FROM orders WHERE id > 1").content == (
        "city,total\nOslo,3.0\nBern,NULL\nNice,NULL"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM orders",
        "DROP TABLE orders",
        "CREATE TABLE other (a)",
        "ALTER TABLE orders ADD COLUMN a",
        "ATTACH 'other.db' AS other",
        "PRAGMA writable_schema = ON",
        "DELETE FROM sqlite_schema",
        "VACUUM INTO 'copy.db'",
        "DELETE FROM orders; DELETE FROM orders",
        "INSERT INTO orders VALUES ('x', 'y')",
        "UPDATE orders SET city = load_extension('x')",
    ],
)
def test_nothing_but_rows_is_changed_and_half_a_change_is_none(database: Path, statement: str) -> None:
    before = database.read_bytes()
    with pytest.raises(SqlError):
        sql_write(database).run(statement=statement)
    assert database.read_bytes() == before
    assert sorted(each.name for each in database.parent.iterdir()) == ["shop.db"]


def test_csv_files_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    for place in (tmp_path, tmp_path / "a.csv"):
        with pytest.raises(ConfigError, match="only rows of an SQLite database"):
            sql_write(place)
