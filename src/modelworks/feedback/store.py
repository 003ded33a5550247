"""Comparisons of two answers and what people said of them, in one SQLite file.

Several people may judge at once, in several processes. What was judged is on disk before the call returns. A comparison
is held back for whoever has it before them, so that two people do not both answer where one judgement is wanted.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from modelworks.core.errors import ConfigError, StoreError
from modelworks.core.sqlite import Database, Layout
from modelworks.data.sample import Turns

Choice = Literal["first", "second", "tie", "skip"]
CHOICES: Final = get_args(Choice)
ASPECTS: Final = ("helpfulness", "accuracy", "safety")
"""What answers are rated for, each from 1 to 5."""
LONGEST_NAME: Final = 80
LONGEST_COMMENT: Final = 10_000

_HELD_S: Final = 900.0  # as long as a comparison is held back for one person

_SCHEMA: Final = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE comparisons (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    prompt TEXT NOT NULL,
    first TEXT NOT NULL,
    second TEXT NOT NULL,
    source TEXT NOT NULL,
    wanted INTEGER NOT NULL CHECK (wanted > 0),
    created TEXT NOT NULL
);

CREATE TABLE judgements (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    comparison INTEGER NOT NULL REFERENCES comparisons (id),
    annotator TEXT NOT NULL,
    "group" TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ({", ".join(f"'{each}'" for each in CHOICES)})),
    ratings TEXT NOT NULL,
    comment TEXT NOT NULL,
    seconds REAL,
    shown_first TEXT CHECK (shown_first IN ('first', 'second')),
    created TEXT NOT NULL,
    UNIQUE (comparison, annotator)
);
CREATE INDEX judgements_by_annotator ON judgements (annotator);

CREATE TABLE held (
    comparison INTEGER NOT NULL REFERENCES comparisons (id),
    annotator TEXT NOT NULL UNIQUE,
    until REAL NOT NULL
);
CREATE INDEX held_by_comparison ON held (comparison);
"""
_LAYOUT: Final = Layout(
    what="a store of comparisons",
    application=0x4D57_4642,  # "MWFB"
    schema=_SCHEMA,
    # A person's judgement outlives a power cut as well.
    settings=("PRAGMA foreign_keys = ON", "PRAGMA synchronous = FULL"),
)

# A skip leaves the comparison to others, and is never shown to the same person again.
_NEXT: Final = """
SELECT id FROM comparisons c
WHERE NOT EXISTS (SELECT 1 FROM judgements WHERE comparison = c.id AND annotator = :annotator)
AND wanted > (SELECT count(*) FROM judgements WHERE comparison = c.id AND choice != 'skip')
           + (SELECT count(*) FROM held WHERE comparison = c.id AND annotator != :annotator AND until > :now)
ORDER BY EXISTS (SELECT 1 FROM held WHERE comparison = c.id AND annotator = :annotator AND until > :now) DESC, id
"""


class JudgedError(StoreError):
    """The person has judged this comparison before, and otherwise."""


class UnknownComparisonError(StoreError):
    """The store has no comparison of that number."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer to a prompt, and how it came about where that is known."""

    turns: Turns
    """A text that goes on from a text, or the turns that follow those of the prompt."""
    model: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """What of `Sampling` is not at its default."""
    finish_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A prompt with two answers; `id` is 0 until it is in a store."""

    prompt: Turns
    first: Answer
    second: Answer
    source: str = ""
    """Where the prompt was read, such as `prompts.jsonl:17`."""
    wanted: int = 1
    """How many judgements it is to get, skips not counted."""
    id: int = 0

    @property
    def digest(self) -> bytes:
        """The same for the same prompt and answers, in whichever order."""
        sides = sorted(_json(side.turns) for side in (self.first, self.second))
        return hashlib.sha256(_json([self.prompt, *sides]).encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a person said of a comparison. Raises ConfigError for what no person can have said."""

    comparison: int
    annotator: str
    group: str = ""
    choice: Choice
    ratings: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of "first" and "second", by aspect, 1 to 5; each may be missing."""
    comment: str = ""
    seconds: float | None = None
    shown_first: Literal["first", "second"] | None = None
    """Which answer stood first; None where nobody was shown them by us."""
    created: str = field(default_factory=lambda: _now())
    """In UTC."""

    def __post_init__(self) -> None:
        check_name("annotator", self.annotator)
        if self.group:
            check_name("group", self.group)
        if self.choice not in CHOICES:
            raise ConfigError(f"choice is {self.choice!r}, expected one of {', '.join(CHOICES)}")
        if self.seconds is not None and not 0 <= self.seconds < 1e9:
            raise ConfigError(f"seconds is {self.seconds}, expected a number of at least 0")
        if len(self.comment) > LONGEST_COMMENT:
            raise ConfigError(f"the comment has {len(self.comment)} characters; at most {LONGEST_COMMENT} are kept")
        for side, rated in self.ratings.items():
            for aspect, rating in rated.items():
                if side not in ("first", "second") or aspect not in ASPECTS or rating not in range(1, 6):
                    raise ConfigError(
                        f"ratings.{side}.{aspect} is {rating!r}; rated are first and second, "
                        f"for {', '.join(ASPECTS)}, from 1 to 5"
                    )


@dataclass(frozen=True, slots=True)
class Task:
    """A comparison as one person is to see it."""

    comparison: Comparison
    shown_first: Literal["first", "second"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one person is."""

    done: int
    """Their judgements, skips included."""
    left: int
    """Comparisons that want a judgement and that they have not had; some may be held by others."""


def check_name(what: str, name: str) -> None:
    """Raise ConfigError for a name of a person or group that is empty, too long or holds what cannot be seen."""
    if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigError(f"{what} is {name[:100]!r}, expected a name of 1 to {LONGEST_NAME} visible characters")


class Store(Database):
    """The comparisons and judgements of one file; safe to share between threads, and the file between processes.

    `clock` tells the time in seconds, by which comparisons that were held back for someone are given to others.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        busy_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open a store; with `create` make it where it is missing.

        Raises StoreError for a file that is missing, and as `Database` does.
        """
        if not create and not Path(path).exists():
            raise StoreError(f"{path}: there is no such store; `modelworks feedback sample` makes one")
        self._clock = clock
        super().__init__(path, _LAYOUT, busy_timeout_s=busy_timeout_s)
        self._salt = str(self._value("SELECT value FROM meta WHERE key = 'salt'"))

    def _fill(self, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta VALUES ('salt', ?)", (secrets.token_hex(16),))

    def _value(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        found = self.rows(sql, parameters)
        return found[0][0] if found else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written within is kept whole or not at all, and faster; other writers wait for its end."""
        with self.transaction():
            yield

    # --- comparisons

    def add(self, comparisons: Iterable[Comparison]) -> list[int]:
        """Add comparisons, all or none of them; their ids, with 0 for one whose prompt and answers are there already.

        Raises ConfigError for two answers that say the same, and for one that wants no judgement.
        """
        ids: list[int] = []
        with self.transaction() as connection:
            for each in comparisons:
                if each.first.turns == each.second.turns:
                    raise ConfigError(f"{each.source or 'a comparison'}: both answers say the same")
                if each.wanted < 1:
                    raise ConfigError(f"wanted is {each.wanted}, expected at least 1 judgement")
                row = connection.execute(
                    "INSERT INTO comparisons (digest, prompt, first, second, source, wanted, created) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING RETURNING id",
                    (
                        each.digest,
                        _json(each.prompt),
                        _json(asdict(each.first)),
                        _json(asdict(each.second)),
                        each.source,
                        each.wanted,
                        _now(),
                    ),
                ).fetchone()
                ids.append(0 if row is None else row[0])
        return ids

    def comparisons(self) -> list[Comparison]:
        """All of them, in the order in which they were added."""
        return [_comparison(row) for row in self.rows(f"SELECT {_COMPARISON} FROM comparisons ORDER BY id")]

    def find(self, comparison: Comparison) -> Comparison | None:
        """What the store has for the same prompt and answers, in whichever order."""
        found = self.rows(f"SELECT {_COMPARISON} FROM comparisons WHERE digest = ?", (comparison.digest,))
        return _comparison(found[0]) if found else None

    def _comparison(self, index: int) -> Comparison:
        found = self.rows(f"SELECT {_COMPARISON} FROM comparisons WHERE id = ?", (index,))
        if not found:
            raise UnknownComparisonError(f"{self.path}: there is no comparison {index}")
        return _comparison(found[0])

    # --- judging

    def next(self, annotator: str) -> Task | None:
        """The first comparison that wants a judgement and that this person has not judged; it is then held for them.

        None where there is none, also where others hold all that is left.
        """
        check_name("annotator", annotator)
        now = self._clock()
        with self.transaction() as connection:
            found = connection.execute(_NEXT + " LIMIT 1", {"annotator": annotator, "now": now}).fetchone()
            if found is None:
                return None
            self._hold(connection, found[0], annotator)
        return self.task(found[0], annotator)

    def task(self, comparison: int, annotator: str) -> Task:
        """A comparison as this person sees it: which answer stands first is a coin of its own for each of both.

        Raises UnknownComparisonError for one that is not there.
        """
        coin = hashlib.sha256(_json([self._salt, annotator, comparison]).encode()).digest()[0] & 1
        return Task(self._comparison(comparison), "second" if coin else "first")

    def _hold(self, connection: sqlite3.Connection, comparison: int, annotator: str) -> None:
        until = self._clock() + _HELD_S
        connection.execute(
            "INSERT INTO held VALUES (?, ?, ?) ON CONFLICT (annotator) DO UPDATE SET "
            "comparison = excluded.comparison, until = excluded.until",
            (comparison, annotator, until),
        )

    def judge(self, judgement: Judgement) -> None:
        """Keep a judgement; saying the same again changes nothing, so that one whose reply was lost may be sent again.

        Raises JudgedError where this person has judged the comparison otherwise, and UnknownComparisonError.
        """
        self._comparison(judgement.comparison)
        names = [each.name for each in fields(Judgement)]
        values = [getattr(judgement, name) for name in names]
        values[names.index("ratings")] = _json(judgement.ratings)
        with self.transaction() as connection:
            made = connection.execute(
                f"INSERT INTO judgements ({', '.join(_quoted(names))}) VALUES ({', '.join('?' * len(names))}) "
                "ON CONFLICT (comparison, annotator) DO NOTHING",
                values,
            ).rowcount
            connection.execute("DELETE FROM held WHERE annotator = ?", (judgement.annotator,))
        if not made:
            said = self._judgements("WHERE comparison = ? AND annotator = ?", judgement.comparison, judgement.annotator)
            if (said[0].choice, said[0].ratings, said[0].comment) != (
                judgement.choice,
                judgement.ratings,
                judgement.comment,
            ):
                raise JudgedError(f"{judgement.annotator} has judged comparison {judgement.comparison} already")

    def undo(self, annotator: str) -> Judgement | None:
        """Take back this person's last judgement and hold its comparison for them again; None where there is none."""
        with self.transaction() as connection:
            said = self._judgements(
                "WHERE annotator = ? AND shown_first IS NOT NULL ORDER BY id DESC LIMIT 1", annotator
            )
            if not said:
                return None
            connection.execute(
                "DELETE FROM judgements WHERE comparison = ? AND annotator = ?", (said[0].comparison, annotator)
            )
            self._hold(connection, said[0].comparison, annotator)
        return said[0]

    def progress(self, annotator: str) -> Progress:
        """How far this person is."""
        done = self._value("SELECT count(*) FROM judgements WHERE annotator = ?", (annotator,))
        left = self._value(f"SELECT count(*) FROM ({_NEXT})", {"annotator": annotator, "now": float("inf")})
        return Progress(done, left)

    def judgements(self) -> list[Judgement]:
        """All of them, in the order in which they were made."""
        return self._judgements("ORDER BY id")

    def _judgements(self, where: str, *parameters: Any) -> list[Judgement]:
        names = [each.name for each in fields(Judgement)]
        found = self.rows(f"SELECT {', '.join(_quoted(names))} FROM judgements {where}", parameters)
        rows = [dict(zip(names, row, strict=True)) for row in found]
        return [Judgement(**row | {"ratings": json.loads(row["ratings"])}) for row in rows]


_COMPARISON: Final = "id, prompt, first, second, source, wanted"


def _comparison(row: Sequence[Any]) -> Comparison:
    index, prompt, first, second, source, wanted = row
    sides = (json.loads(side) for side in (first, second))
    a, b = (Answer(**side | {"turns": _turns(side["turns"])}) for side in sides)
    return Comparison(prompt=_turns(json.loads(prompt)), first=a, second=b, source=source, wanted=wanted, id=index)


def _turns(value: Any) -> Turns:
    return value if isinstance(value, str) else tuple(value)


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
