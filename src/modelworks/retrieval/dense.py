"""Search by meaning: inner products of the query's vector with the chunks' vectors.

An approximate index with a selective filter silently loses most of its recall, so whatever can be scanned is scanned
exactly: a collection up to the limit from a matrix in memory, the rows that a filter leaves of a larger one from the
store. Only what is larger still goes through the approximate index, and is then scored exactly.

Shapes: N vectors, C dimensions, M chunks (several may share a vector).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelworks.retrieval.projection import Projection
from modelworks.retrieval.store import VECTOR_DTYPE, Store
from modelworks.retrieval.where import Filter

EXACT_LIMIT = 100_000
"""Vectors that are scanned exactly: 40 ms for as many with NumPy on one core, 150 MB at 384 dimensions."""

Ranking = list[tuple[int, float]]
"""(chunk id, cosine), best first."""


@dataclass(frozen=True, slots=True)
class _Matrix:
    """The store's vectors at one revision; `rows_M` says which vector each chunk has."""

    revision: int
    vectors_NC: NDArray[np.float32]
    chunk_ids_M: NDArray[np.int64]
    rows_M: NDArray[np.int64]


class DenseIndex:
    """Vector search over a store. What it caches is dropped as soon as any process changes the store."""

    def __init__(self, store: Store, *, exact_limit: int = EXACT_LIMIT) -> None:
        self.store = store
        self.exact_limit = exact_limit
        self._matrix: _Matrix | None = None
        self._projection: Projection | None = None

    def search(self, query_C: NDArray[np.float32], limit: int, where: Filter | None = None) -> Ranking:
        """The chunks nearest to the query among those that `where` allows; cosines of 0 or less are dropped."""
        if limit <= 0:
            return []
        if self._vectors_stored() <= self.exact_limit:
            return self._search_matrix(query_C, limit, where)
        self._matrix = None
        if where is not None and self._matching(where, self.exact_limit + 1) <= self.exact_limit:
            return _top(*self._score(query_C, where), limit)
        return self._search_projection(query_C, limit, where)

    def prepare(self) -> None:
        """Bring the approximate index level with the store where it is needed, remove it where it is not."""
        if self._vectors_stored() > self.exact_limit:
            self._projected().level()
        elif Projection.exists(self.store):
            self._projection = None
            Projection.remove(self.store)

    def scores(self, query_C: NDArray[np.float32], chunk_ids: Iterable[int]) -> dict[int, float]:
        """Cosines of given chunks, as far as they have vectors."""
        ids_M, scores_M = self._score(query_C, _among("chunks.id", chunk_ids))
        return dict(zip(ids_M.tolist(), scores_M.tolist(), strict=True))

    def _vectors_stored(self) -> int:
        return int(self.store.value("SELECT count(*) FROM embeddings"))

    def _projected(self) -> Projection:
        if self._projection is None:
            self._projection = Projection(self.store)
        return self._projection

    def _search_matrix(self, query_C: NDArray[np.float32], limit: int, where: Filter | None) -> Ranking:
        matrix = self._current_matrix()
        if not len(matrix.rows_M):
            return []
        scores_M = (matrix.vectors_NC @ query_C)[matrix.rows_M]
        ids_M = matrix.chunk_ids_M
        if where is not None:
            allowed = self.store.rows(
                f"SELECT chunks.id FROM documents JOIN chunks ON document_id = documents.id WHERE {where.sql}",
                where.parameters,
            )
            kept = np.isin(ids_M, np.fromiter((row[0] for row in allowed), np.int64, len(allowed)))
            scores_M, ids_M = scores_M[kept], ids_M[kept]
        return _top(ids_M, scores_M, limit)

    def _current_matrix(self) -> _Matrix:
        """The vectors in memory, read again where the store has moved on."""
        matrix = self._matrix
        if matrix is None or matrix.revision != self.store.revision():
            matrix = self._matrix = _read_matrix(self.store)
        return matrix

    def _matching(self, where: Filter, limit: int) -> int:
        """How many embedded chunks a filter leaves, counted up to `limit`."""
        return int(
            self.store.value(
                f"""
                SELECT count(*) FROM (
                    SELECT 1 FROM documents JOIN chunks ON document_id = documents.id
                    JOIN embeddings USING (text_hash) WHERE {where.sql} LIMIT ?)""",
                (*where.parameters, limit),
            )
        )

    def _search_projection(self, query_C: NDArray[np.float32], limit: int, where: Filter | None) -> Ranking:
        """Widen the approximate search until enough of what it finds passes the filter, and score that exactly."""
        projection = self._projected()
        # Quantised distances shuffle near neighbours, so fetch some more than asked for.
        wanted = 4 * limit
        while True:
            keys = projection.search(query_C, wanted)
            ids_M, scores_M = self._score(query_C, _among("chunks.text_hash", keys), where)
            if len(ids_M) >= limit or len(keys) < wanted:
                return _top(ids_M, scores_M, limit)
            wanted *= 4

    def _score(
        self, query_C: NDArray[np.float32], *conditions: Filter | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and cosines of the embedded chunks that meet all the conditions, straight from the store."""
        filters = [condition for condition in conditions if condition is not None]
        rows = self.store.rows(
            f"""
            SELECT chunks.id, vector FROM documents JOIN chunks ON document_id = documents.id
            JOIN embeddings USING (text_hash) WHERE {" AND ".join(f"({each.sql})" for each in filters)}""",
            [parameter for each in filters for parameter in each.parameters],
        )
        ids_M = np.fromiter((row[0] for row in rows), np.int64, len(rows))
        # In blocks: the vectors as float32 would be twice the size of what was read.
        blocks = [_vectors(rows[start : start + 8192], len(query_C)) @ query_C for start in range(0, len(rows), 8192)]
        return ids_M, np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _read_matrix(store: Store) -> _Matrix:
    with store.snapshot() as connection:
        revision = store.revision()
        vectors = connection.execute("SELECT rowid, vector FROM embeddings ORDER BY rowid").fetchall()
        owners = connection.execute(
            "SELECT chunks.id, embeddings.rowid FROM chunks JOIN embeddings USING (text_hash)"
        ).fetchall()
    embedder = store.embedder()
    vectors_NC = _vectors(vectors, embedder[1] if embedder else 0)
    owners_M2 = np.array(owners, np.int64).reshape(-1, 2)
    rowids_N = np.fromiter((row[0] for row in vectors), np.int64, len(vectors))
    return _Matrix(revision, vectors_NC, owners_M2[:, 0], np.searchsorted(rowids_N, owners_M2[:, 1]))


def _vectors(rows: list[tuple[int, bytes]], dimension: int) -> NDArray[np.float32]:
    """Vectors as the store holds them, x_NC."""
    joined = b"".join(row[1] for row in rows)
    return np.frombuffer(joined, VECTOR_DTYPE).astype(np.float32).reshape(len(rows), dimension)


def _among(column: str, values: Iterable[int] | Iterable[str]) -> Filter:
    return Filter(f"{column} IN (SELECT value FROM json_each(?))", (json.dumps(list(values)),))


def _top(ids_M: NDArray[np.int64], scores_M: NDArray[np.float32], limit: int) -> Ranking:
    """The `limit` highest of the scores above 0, equal ones in the order of their ids."""
    if len(scores_M) > limit:
        # All that tie with the last one in: which of them stay is then decided below, not by the partition.
        least = np.partition(scores_M, -limit)[-limit]
        ids_M, scores_M = ids_M[scores_M >= least], scores_M[scores_M >= least]
    order = np.lexsort((ids_M, -scores_M))[:limit]
    return [(int(ids_M[i]), float(scores_M[i])) for i in order if scores_M[i] > 0]
