"""SQL on an SQLite database or on CSV files, which `sql` does not change: SQLite itself refuses what is no question.

Three locks, each of which would do: the file is opened read-only, `query_only` is set, and the authorizer allows
reading and functions alone. Steps, rows, texts and time are bounded. `sql_write` is a tool of its own, which writes: it
changes rows of a database, and neither its tables nor anything beside it.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from modelworks.agents.tool import Result, Tool, tool
from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.core.sqlite import may_be_sqlite

_ROWS: Final = 100
_CELL: Final = 500  # characters
_TOLD: Final = 16_000
_SECONDS: Final = 10.0
_STEPS: Final = 10_000  # of SQLite's machine between two looks at the clock
_VALUE: Final = 8 << 20  # bytes of a text or blob, and of a row
_CSV_BYTES: Final = 128 << 20
_SCHEMA: Final = 3000  # characters of it in the description
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # 007 and +49 are texts
_REAL: Final = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")

_READING: Final = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_ROWS_ALONE: Final = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
_CHANGING: Final = _READING | _ROWS_ALONE | {sqlite3.SQLITE_TRANSACTION}
_FORBIDDEN_FUNCTIONS: Final = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})


class SqlError(ModelworksError):
    """A query that is none, is not allowed, or takes too long; the message is for the model."""


def sql(data: str | os.PathLike[str]) -> Tool:
    """A tool that asks an SQLite database, a CSV file, or the CSV files of a folder (each is a table).

    Its description has the tables and columns as they are now. Raises `ConfigError` for what is none of these.
    """
    path = Path(data).resolve()
    with closing(_opened(path)) as connection:
        tables = _schema(connection, path)

    def run(query: str) -> Result:
        with closing(_opened(path)) as connection:
            return Result(_asked(connection, query), frozenset({path.name}))

    run.__doc__ = f"""Ask a database with one SQL query (SQLite's dialect). It can only be read.

        Tables: {tables}

        Args:
            query: One SELECT statement.
        """
    return tool(name="sql", effects=["reads"], timeout=_SECONDS + 30.0)(run)


def sql_write(data: str | os.PathLike[str]) -> Tool:
    """A tool that changes rows of an SQLite database. Raises `ConfigError` for what is none, CSV files among it."""
    path = Path(data).resolve()
    with closing(_opened(path, write=True)) as connection:
        tables = _schema(connection, path)

    def run(statement: str) -> Result:
        with closing(_opened(path, write=True)) as connection, connection:
            return Result(_changed(connection, statement), frozenset({path.name}))

    run.__doc__ = f"""Change rows of a database with one SQL statement (SQLite's dialect).

        Tables: {tables}

        Args:
            statement: One INSERT, UPDATE or DELETE statement.
        """
    return tool(name="sql_write", effects=["reads", "writes"], timeout=_SECONDS + 30.0)(run)


def _changed(connection: sqlite3.Connection, statement: str) -> str:
    before = connection.total_changes
    told = _carried_out(connection, statement, "write one INSERT, UPDATE or DELETE statement", questions=False)
    return f"{connection.total_changes - before} rows changed{told}"


def _asked(connection: sqlite3.Connection, query: str) -> str:
    return _carried_out(connection, query, "write one SELECT statement", questions=True)


def _carried_out(connection: sqlite3.Connection, query: str, wanted: str, *, questions: bool) -> str:
    """The rows of a statement as a table; "" where it has none. `questions`: whether it must be one, or must not."""
    until = time.monotonic() + _SECONDS
    connection.set_progress_handler(lambda: int(time.monotonic() > until), _STEPS)
    try:
        cursor = connection.execute(query)
        if (cursor.description is not None) != questions:
            raise SqlError(f"that is {'no question' if questions else 'a question'}: {wanted}")
        if not questions:
            return ""
        rows = cursor.fetchmany(_ROWS + 1)
        return _table([column[0] for column in cursor.description], rows)
    except sqlite3.Warning as error:  # two statements; a ProgrammingError since Python 3.12
        raise SqlError("only one statement can be asked at once") from error
    except (sqlite3.Error, UnicodeError, ValueError, OverflowError) as error:
        raise SqlError(_why(error, wanted)) from error


def _why(error: Exception, wanted: str) -> str:
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_INTERRUPT:
        return f"the query took longer than {_SECONDS:.0f} seconds: ask for less"
    if code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY) or "not authorized" in str(error):
        return f"not allowed: {wanted}"
    if code == sqlite3.SQLITE_TOOBIG:
        return "a text of the query or of its result is too large"
    return str(error)


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """As CSV, which costs a model the fewest tokens."""
    shown = io.StringIO()
    writer = csv.writer(shown, lineterminator="\n")
    writer.writerow(names)
    for number, row in enumerate(rows[:_ROWS]):
        before = shown.tell()
        writer.writerow([_cell(value) for value in row])
        if shown.tell() > _TOLD:
            text = shown.getvalue()[:before]
            return f"{text}[cut after {number} rows: ask for fewer columns or rows]"
    text = shown.getvalue()
    if len(rows) > _ROWS:
        return f"{text}[only the first {_ROWS} rows: use LIMIT, or count and group]"
    return text.rstrip("\n") if rows else f"{text}(no rows)"


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = str(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}..."


# --- the database -----------------------------------------------------------------------------------------------------


def _opened(path: Path, *, write: bool = False) -> sqlite3.Connection:
    """A connection that can only read, or with `write` change rows; CSV files are read into memory first."""
    try:
        if write and path.suffix.lower() in (".csv", ".tsv", ""):
            raise ConfigError(f"{path}: only rows of an SQLite database can be changed")
        if path.is_dir() or path.suffix.lower() in (".csv", ".tsv"):
            connection = _of_csv(path)
        elif not path.is_file() or not may_be_sqlite(path):
            raise ConfigError(f"{path}: is no SQLite database, no CSV file and no folder of CSV files")
        else:
            connection = sqlite3.connect(f"file:{quote(str(path))}?mode={'rw' if write else 'ro'}", uri=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        connection.execute(f"PRAGMA query_only = {'OFF' if write else 'ON'}")
        connection.execute("PRAGMA trusted_schema = OFF")  # functions of views are held to the same rules
    except sqlite3.Error as error:
        connection.close()
        raise ConfigError(f"{path}: {error}") from error
    for limit, value in (
        (sqlite3.SQLITE_LIMIT_LENGTH, _VALUE),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 100_000),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        connection.setlimit(limit, value)
    connection.text_factory = lambda data: data.decode(errors="replace")
    connection.set_authorizer(partial(_allowed, _CHANGING if write else _READING))
    return connection


def _allowed(
    actions: frozenset[int], action: int, first: str | None, second: str | None, base: str | None, inner: str | None
) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if (second or "").lower() in _FORBIDDEN_FUNCTIONS else sqlite3.SQLITE_OK
    if action in _ROWS_ALONE and (first or "").lower().startswith("sqlite_"):
        return sqlite3.SQLITE_DENY  # the tables' own definitions
    return sqlite3.SQLITE_OK if action in actions else sqlite3.SQLITE_DENY


def _schema(connection: sqlite3.Connection, path: Path) -> str:
    """Each table with its columns and their types, on one line."""
    try:
        found = connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY name")
        names = [name for (name,) in found if not name.startswith("sqlite_")]
        connection.set_authorizer(None)  # our own question, which no model wrote
        told = []
        for name in names:
            columns = connection.execute("SELECT name, type FROM pragma_table_info(?)", (name,)).fetchall()
            told.append(f"{_quoted(name)}({', '.join(f'{_quoted(c)} {kind}'.strip() for c, kind in columns)})")
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    text = "; ".join(told) or "none"
    return text if len(text) <= _SCHEMA else f"{text[:_SCHEMA]}... (more: SELECT name, sql FROM sqlite_schema)"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else '"' + name.replace('"', '""') + '"'


# --- CSV --------------------------------------------------------------------------------------------------------------


def _of_csv(path: Path) -> sqlite3.Connection:
    inside = (
        sorted(each for each in path.iterdir() if each.suffix.lower() in (".csv", ".tsv")) if path.is_dir() else [path]
    )
    if not inside:
        raise ConfigError(f"{path}: has no CSV files in it")
    if sum(each.stat().st_size for each in inside) > _CSV_BYTES:
        raise ConfigError(
            f"{path}: has more than {_CSV_BYTES >> 20} MiB of CSV: bring it into an SQLite database first"
        )
    connection = sqlite3.connect(":memory:")
    try:
        taken: set[str] = set()
        for each in inside:
            name = _unused(re.sub(r"\W+", "_", each.stem).strip("_") or "table", taken)
            _load(connection, name, each)
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _load(connection: sqlite3.Connection, table: str, path: Path) -> None:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        sample = file.read(1 << 16)
        file.seek(0)
        reader = csv.reader(file, delimiter=_delimiter(sample, path))
        try:
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise ConfigError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ConfigError(f"{path}: is empty; its first line has to name the columns")
    width = max(map(len, rows))
    if width > 500:
        raise ConfigError(f"{path}: has {width} columns, more than 500")
    taken: set[str] = set()
    named = [*rows[0], *[""] * (width - len(rows[0]))]
    names = [_unused(name.strip() or f"column{number}", taken) for number, name in enumerate(named, 1)]
    columns = list(zip(*([*row, *[""] * (width - len(row))] for row in rows[1:]))) or [()] * width
    kinds, values = zip(*map(_typed, columns))
    declared = ", ".join(f"{_always_quoted(name)} {kind}" for name, kind in zip(names, kinds))
    connection.execute(f"CREATE TABLE {_always_quoted(table)} ({declared})")
    marks = ", ".join("?" * width)
    connection.executemany(f"INSERT INTO {_always_quoted(table)} VALUES ({marks})", zip(*values))


def _typed(column: Sequence[str]) -> tuple[str, Iterable[Any]]:
    """A column as numbers where all that is in it are; what is empty is NULL."""
    filled = [cell.strip() for cell in column if cell.strip()]
    if filled and all(map(_INTEGER.fullmatch, filled)):
        return "INTEGER", [int(cell) if cell.strip() else None for cell in column]
    if filled and all(map(_REAL.fullmatch, filled)):
        return "REAL", [float(cell) if cell.strip() else None for cell in column]
    return "TEXT", [cell or None for cell in column]


def _delimiter(sample: str, path: Path) -> str:
    first = sample.split("\n", 1)[0]
    return "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)


def _unused(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; case does not matter to SQLite."""
    made = next(made for made in _numbered(name) if made.lower() not in taken)
    taken.add(made.lower())
    return made


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _always_quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
