"""What agents did, in one SQLite file that is only ever added to: for resuming, for auditing, for whoever looks on.

Each entry holds the hash of the one before it, so that no entry can be changed or taken out unseen. A call has an entry
before it is made and one after: a call without the second was interrupted, and nobody knows whether it took effect.
Before a call is made, its entry is on disk. Several runs, threads and processes may write to one file.

The chain shows tampering by whoever does not recompute all hashes after it. Against one who does, keep the newest hash
(`head`) elsewhere, and give it to `audit.verify`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from modelworks.agents.tool import canonical
from modelworks.core.errors import ConfigError, StoreError
from modelworks.core.sqlite import IN_MEMORY, Database, Layout

Kind: TypeAlias = Literal[
    "task", "recall", "reply", "call", "edit", "decision", "intent", "result", "said", "resume", "end"
]
"""What happened: the user's task, what memory gave, a reply of the model, a call that it wants, that call with other
arguments, whether it may be made, that it is about to be made, what came of it, what the user said later, that the run
goes on in another process, and how it ended."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
GENESIS: Final = "0" * 64
"""What the first entry names as the hash before it."""

_SCHEMA: Final = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    parent TEXT,
    agent TEXT NOT NULL,
    task TEXT NOT NULL,
    created TEXT NOT NULL,
    process TEXT NOT NULL,
    "end" TEXT
) WITHOUT ROWID;

CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    time TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX entries_run ON entries (run, sequence);

CREATE TABLE halts (run TEXT PRIMARY KEY, time TEXT NOT NULL) WITHOUT ROWID;
"""
_LAYOUT: Final = Layout(
    what="a journal of agents",
    application=0x4D57_4147,  # "MWAG"
    schema=_SCHEMA,
    settings=("PRAGMA synchronous = FULL",),  # an intent is on disk before its call is made
)

State: TypeAlias = Literal["running", "interrupted", "answer", "question", "stop"]
"""Of a run: the last three are how it ended."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened."""

    sequence: int
    run: str
    kind: Kind
    body: Mapping[str, Any]
    time: str
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as a list shows it."""

    id: str
    parent: str | None
    agent: str
    task: str
    created: str
    state: State
    end: Mapping[str, Any] | None
    """The run's last step; None while it runs, and where it was interrupted."""


class Journal(Database):
    """The journal of a file, which is made where it is missing; ":memory:" for one that is not kept.

    Raises `StoreError` as `Database` does.
    """

    def __init__(self, path: Path | str = IN_MEMORY) -> None:
        super().__init__(path, _LAYOUT)

    # --- writing ------------------------------------------------------------------------------------------------------

    def begin(self, run: str, agent: str, task: str, body: Mapping[str, Any], *, parent: str | None = None) -> None:
        """Add a run. Raises `ConfigError` where there is one of that id."""
        now = _now()
        with self.transaction() as connection:
            try:
                connection.execute(
                    "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, NULL)", (run, parent, agent, task, now, _process())
                )
            except sqlite3.IntegrityError as error:
                raise ConfigError(f"there is a run {run} already") from error
            self._append(connection, run, "task", {"task": task, "agent": agent, "parent": parent, **body}, now)

    def add(self, run: str, kind: Kind, body: Mapping[str, Any]) -> Entry:
        """Add what happened in a run; it is on disk when this returns."""
        with self.transaction() as connection:
            if kind == "end":
                connection.execute('UPDATE runs SET "end" = ? WHERE id = ?', (canonical(body), run))
            elif kind == "resume":
                connection.execute('UPDATE runs SET "end" = NULL, process = ? WHERE id = ?', (_process(), run))
                connection.execute("DELETE FROM halts WHERE run = ?", (run,))
            return self._append(connection, run, kind, body, _now())

    def ask_to_halt(self, run: str) -> None:
        """Ask the process that carries out a run, whichever it is, to halt it. Raises `ConfigError` for no such run."""
        run = self.find(run).id
        with self.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO halts VALUES (?, ?)", (run, _now()))

    def _append(self, connection: sqlite3.Connection, run: str, kind: Kind, body: Mapping[str, Any], now: str) -> Entry:
        assert kind in KINDS
        last = connection.execute("SELECT sequence, hash FROM entries ORDER BY sequence DESC LIMIT 1").fetchone()
        sequence, previous = (1, GENESIS) if last is None else (last[0] + 1, last[1])
        text = canonical(body)
        digest = entry_hash(sequence, run, kind, text, now, previous)
        connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", (sequence, run, kind, text, now, previous, digest)
        )
        return Entry(sequence, run, kind, json.loads(text), now, previous, digest)

    # --- reading ------------------------------------------------------------------------------------------------------

    def head(self) -> tuple[int, str]:
        """How many entries there are, and the newest one's hash."""
        row = next(iter(self.rows("SELECT sequence, hash FROM entries ORDER BY sequence DESC LIMIT 1")), None)
        return (0, GENESIS) if row is None else (int(row[0]), str(row[1]))

    def written(self) -> int:
        """How many entries were ever written; more than there are where the last ones were taken out."""
        row = next(iter(self.rows("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")), None)
        return 0 if row is None else int(row[0])

    def entries(self, run: str | None = None, *, after: int = 0) -> Iterator[Entry]:
        """The entries of one run, or of all, in order; those after a sequence number."""
        rows = self.rows(
            "SELECT sequence, run, kind, body, time, previous, hash FROM entries"
            " WHERE (?1 IS NULL OR run = ?1) AND sequence > ?2 ORDER BY sequence",
            (run, after),
        )
        for sequence, of, kind, body, at, previous, digest in rows:
            try:
                content = json.loads(body)
            except ValueError:
                content = None
            if not isinstance(content, dict):
                raise StoreError(f"{self.path}: entry {sequence} is damaged: `modelworks agents audit` says which are")
            yield Entry(sequence, of, kind, content, at, previous, digest)

    def raw(self) -> Iterator[tuple[int, str, str, str, str, str, str]]:
        """The entries as they stand in the file: sequence, run, kind, body, time, previous, hash."""
        yield from self.rows("SELECT sequence, run, kind, body, time, previous, hash FROM entries ORDER BY sequence")

    def runs(self) -> list[RunInfo]:
        """All runs, the newest first."""
        rows = self.rows('SELECT id, parent, agent, task, created, process, "end" FROM runs ORDER BY created DESC, id')
        return [_info(*row) for row in rows]

    def find(self, run: str) -> RunInfo:
        """A run by its id, or by as much of the id's beginning as only one has. Raises `ConfigError` otherwise."""
        found = [each for each in self.runs() if each.id == run] or [
            each for each in self.runs() if each.id.startswith(run) and run and each.parent is None
        ]
        if len(found) != 1:
            how = "no run" if not found else f"{len(found)} runs"
            raise ConfigError(f"{how} in {self.path} begins with {run!r}; `modelworks agents list` shows them")
        return found[0]

    def asked_to_halt(self, run: str) -> bool:
        """Whether somebody asked to halt a run, or one that it is a part of."""
        return bool(self.rows("SELECT 1 FROM halts WHERE run = ?1 OR ?1 LIKE run || '.%'", (run,)))


def entry_hash(sequence: int, run: str, kind: str, body: str, at: str, previous: str) -> str:
    """SHA-256 over all of an entry and the hash before it."""
    return hashlib.sha256(canonical([sequence, run, kind, body, at, previous]).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _process() -> str:
    """This process, told from others that have its number before or after it."""
    return f"{os.getpid()} {_started(os.getpid())}"


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" where that cannot be known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _lives(process: str) -> bool:
    pid, _, started = process.partition(" ")
    if started:
        return _started(int(pid)) == started
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _info(run: str, parent: str | None, agent: str, task: str, created: str, process: str, end: str | None) -> RunInfo:
    ended = None if end is None else json.loads(end)
    state: State = ended["kind"] if ended else "running" if _lives(process) else "interrupted"
    return RunInfo(run, parent, agent, task, created, state, ended)


def new_id() -> str:
    """An id for a run: later ones sort behind earlier ones."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(3).hex()}"
