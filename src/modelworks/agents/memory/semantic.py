"""Semantic memory: facts, kept one by one and found by what they say.

`FactStore` is all that a `Memory` asks of one; an index of documents with three methods more is as good. `Facts` is the
one that needs nothing else: SQLite's word search, and vectors beside it where there is an embedder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from modelworks.agents.memory.database import Remembered, mentions
from modelworks.core.errors import ConfigError
from modelworks.text.words import match_expression

LONGEST: Final = 2000
"""Characters of a fact: more is a document, which belongs into a collection."""
_NEAREST: Final = 0.35  # cosine below which MiniLM's neighbours have nothing to do with a query
_RRF: Final = 60  # Cormack, Clarke and Buettcher 2009
_CANDIDATES: Final = 50


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that was remembered."""

    id: str
    text: str
    origins: frozenset[str] = field(default_factory=frozenset)
    """Where it came from, as far as whoever added it knew."""
    created: float = 0.0


class FactStore(Protocol):
    """Where facts are kept."""

    def add(self, texts: Sequence[str], *, origins: Iterable[str] = ()) -> list[str]:
        """Keep facts; their ids. One that is there already keeps its id."""

    def search(self, query: str, limit: int) -> Sequence[Fact]:
        """The facts that have most to do with a text, best first; those that have nothing are left out."""

    def mentioning(self, text: str) -> Sequence[Fact]:
        """Every fact that has a text in it, whatever its case."""

    def remove(self, ids: Sequence[str]) -> int:
        """Forget facts for good; how many there were."""


class Embedder(Protocol):
    """What makes vectors of texts; retrieval's embedders are such."""

    @property
    def id(self) -> str: ...
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, C), rows of length 1."""


class Facts(Remembered):
    """Facts in an SQLite file; safe to share between threads, and the file between processes."""

    def __init__(self, path: str | Path, embedder: Embedder | None = None, **settings: Any) -> None:
        """embedder: finds facts by meaning too, and not by words alone. Other settings, and errors: as `Database`."""
        super().__init__(path, **settings)
        self._embedder = embedder

    def add(self, texts: Sequence[str], *, origins: Iterable[str] = ()) -> list[str]:
        """Keep facts, all or none; one that is there already keeps its id, and gets the origins that it lacked.

        Raises ConfigError for a text that is blank or too long for a fact.
        """
        tidied = [" ".join(text.split()) for text in texts]
        for text in tidied:
            if not text or len(text) > LONGEST:
                raise ConfigError(f"a fact has 1 to {LONGEST} characters, not {len(text)}: {text[:40]!r}")
        ids: list[str] = []
        with self.transaction() as connection:
            for text in tidied:
                known = connection.execute("SELECT id, origins FROM facts WHERE text = ?", (text,)).fetchone()
                said = sorted({*origins, *(json.loads(known[1]) if known else ())})
                (row,) = connection.execute(
                    "INSERT INTO facts (text, origins, created) VALUES (?, ?, ?) "
                    "ON CONFLICT (text) DO UPDATE SET origins = excluded.origins RETURNING id",
                    (text, json.dumps(said, ensure_ascii=False), self.clock()),
                ).fetchone()
                if not known:
                    self.index(connection, "facts", row, text)
                ids.append(str(row))
        return ids

    def search(self, query: str, limit: int = 5) -> list[Fact]:
        """Facts that share a word with the query or, with an embedder, its meaning; best first."""
        scores: dict[int, float] = {}
        for ranking in (self._by_words(query), self._by_meaning(query)):
            for rank, row in enumerate(ranking):
                scores[row] = scores.get(row, 0.0) + 1 / (_RRF + rank)
        best = sorted(scores, key=lambda row: (-scores[row], -row))[:limit]
        marks = ", ".join("?" * len(best))
        facts = {fact.id: fact for fact in self._facts(f"WHERE id IN ({marks})", best)}
        return [facts[str(row)] for row in best if str(row) in facts]  # another process may have removed one

    def _by_words(self, query: str) -> list[int]:
        if not (expression := match_expression(query)):
            return []
        sql = "SELECT rowid FROM facts_fts WHERE facts_fts MATCH ? ORDER BY rank LIMIT ?"
        return [row[0] for row in self.rows(sql, (expression, _CANDIDATES))]

    def _by_meaning(self, query: str) -> list[int]:
        if self._embedder is None or not query.strip():
            return []
        self._embed_pending(self._embedder)
        rows = self.rows("SELECT id, vector FROM facts WHERE embedder = ? ORDER BY id", (self._embedder.id,))
        if not rows:
            return []
        facts_NC = np.stack([np.frombuffer(row[1], np.float32) for row in rows])
        cosines_N = facts_NC @ self._embedder.embed([query])[0].astype(np.float32)
        order = np.argsort(-cosines_N, kind="stable")[:_CANDIDATES]
        return [rows[at][0] for at in order if cosines_N[at] >= _NEAREST]

    def _embed_pending(self, embedder: Embedder) -> None:
        """Make the vectors that are missing, or another embedder's."""
        rows = self.rows("SELECT id, text FROM facts WHERE embedder IS NOT ?", (embedder.id,))
        if not rows:
            return
        vectors_NC = embedder.embed([text for _, text in rows]).astype(np.float32)
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE facts SET embedder = ?, vector = ? WHERE id = ?",
                [(embedder.id, vector_C.tobytes(), row) for (row, _), vector_C in zip(rows, vectors_NC, strict=True)],
            )

    def mentioning(self, text: str) -> list[Fact]:
        """Every fact that has a text in it, whatever its case."""
        return [fact for fact in self.all() if mentions(fact.text, text)]

    def remove(self, ids: Sequence[str]) -> int:
        """Forget facts: no byte of them is left in the file. How many there were; raises as `Database.erase`."""
        return self.erase("facts", [int(each) for each in ids if each.isdecimal() and len(each) < 19])

    def all(self) -> list[Fact]:
        """Every fact, in the order in which they were added."""
        return self._facts("ORDER BY id")

    def _facts(self, where: str, parameters: Sequence[Any] = ()) -> list[Fact]:
        rows = self.rows(f"SELECT id, text, origins, created FROM facts {where}", parameters)
        return [Fact(str(row), text, frozenset(json.loads(origins)), at) for row, text, origins, at in rows]
