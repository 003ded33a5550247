"""Episodic memory: what was tried before, how it ended and what was learned, found by words and by how recent it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from modelworks.agents.memory.database import Remembered, mentions
from modelworks.text.words import match_expression

_FADED_S: Final = 30 * 86_400.0  # after which half of what recency adds is gone
_COLUMNS: Final = "id, run, task, outcome, text, lessons, origins, seconds, created"


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A run that has ended."""

    task: str
    outcome: str
    """"answer", "question", or why the run stopped: "halted", "steps", ..."""
    text: str = ""
    """The answer, the question, or what stopped it."""
    lessons: tuple[str, ...] = ()
    """What the next try should know."""
    origins: frozenset[str] = field(default_factory=frozenset)
    """Where the words of the run came from beside the user: files, URLs, passages."""
    run: str
    seconds: float = 0.0
    created: float = 0.0
    """Seconds since 1970; 0 until it is in a store."""
    id: int = 0


class EpisodicMemory(Remembered):
    """Past runs in an SQLite file; safe to share between threads, and the file between processes.

    `clock` tells the time in seconds since 1970.
    """

    def add(self, episode: Episode) -> int:
        """Keep a run, in place of what was kept of the same run before; its id."""
        values = (
            episode.run,
            episode.task,
            episode.outcome,
            episode.text,
            json.dumps(episode.lessons, ensure_ascii=False),
            json.dumps(sorted(episode.origins), ensure_ascii=False),
            episode.seconds,
            self.clock(),
        )
        with self.transaction() as connection:
            (row,) = connection.execute(
                "INSERT INTO episodes (run, task, outcome, text, lessons, origins, seconds, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run) DO UPDATE SET task = excluded.task, "
                "outcome = excluded.outcome, text = excluded.text, lessons = excluded.lessons, "
                "origins = excluded.origins, seconds = excluded.seconds, created = excluded.created RETURNING id",
                values,
            ).fetchone()
            self.index(connection, "episodes", row, "\n".join((episode.task, episode.text, *episode.lessons)))
        return int(row)

    def search(self, query: str, limit: int = 5) -> list[Episode]:
        """Runs that share a word with a text, best first: by BM25, which counts double for a run of just now."""
        if not (expression := match_expression(query)):
            return []
        found = self.rows(
            f"SELECT {_COLUMNS} FROM episodes JOIN (SELECT rowid AS row, rank FROM episodes_fts "
            "WHERE episodes_fts MATCH ?) ON row = id "
            "ORDER BY rank * (1 + 1 / (1 + max(0, ? - created) / ?)), id DESC LIMIT ?",
            (expression, self.clock(), _FADED_S, limit),
        )
        return [_episode(row) for row in found]

    def recent(self, limit: int = 20) -> list[Episode]:
        """The latest runs, the latest first."""
        return [
            _episode(row) for row in self.rows(f"SELECT {_COLUMNS} FROM episodes ORDER BY id DESC LIMIT ?", (limit,))
        ]

    def mentioning(self, text: str) -> list[Episode]:
        """Every run in whose task, outcome or lessons a text stands, whatever its case."""
        every = (_episode(row) for row in self.rows(f"SELECT {_COLUMNS} FROM episodes ORDER BY id"))
        return [each for each in every if any(mentions(said, text) for said in (each.task, each.text, *each.lessons))]

    def forget(self, ids: Sequence[int]) -> int:
        """Forget runs: no byte of them is left in the file. How many there were; raises as `Database.erase`."""
        return self.erase("episodes", ids)


def _episode(row: Sequence[Any]) -> Episode:
    index, run, task, outcome, text, lessons, origins, seconds, created = row
    return Episode(
        task=task,
        outcome=outcome,
        text=text,
        lessons=tuple(json.loads(lessons)),
        origins=frozenset(json.loads(origins)),
        run=run,
        seconds=seconds,
        created=created,
        id=index,
    )
