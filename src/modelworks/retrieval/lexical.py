"""Word search: BM25 (Robertson and Zaragoza 2009) by SQLite's FTS5, over the words of `text.words`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelworks.retrieval.where import Filter
from modelworks.text.words import match_expression

if TYPE_CHECKING:
    from modelworks.retrieval.store import Store

COLUMN_WEIGHTS = {"title": 0.5, "heading": 1.0, "index_text": 1.0, "cjk": 1.0}
"""How much one occurrence counts in each column of the index (the order is the table's)."""


def search(store: Store, query: str, limit: int, where: Filter | None = None) -> list[tuple[int, float]]:
    """The best chunks that share a term with the query: (chunk id, BM25 score > 0), best first.

    FTS5 floors the inverse document frequency just above 0, so a term that most chunks hold still finds them.
    """
    expression = match_expression(query)
    if not expression or limit <= 0:
        return []
    weights = ", ".join(str(weight) for weight in COLUMN_WEIGHTS.values())
    if where is None:
        sql = "SELECT rowid, rank FROM chunks_fts WHERE chunks_fts MATCH ? AND rank MATCH ? ORDER BY rank LIMIT ?"
        rows = store.rows(sql, (expression, f"bm25({weights})", limit))
    else:
        # CROSS JOIN keeps the order of the loops: the match first, then its rows' documents. The other way round
        # FTS5 would run the query once a row.
        sql = f"""
            SELECT chunks_fts.rowid, bm25(chunks_fts, {weights}) AS score
            FROM chunks_fts
            CROSS JOIN chunks ON chunks.id = chunks_fts.rowid
            CROSS JOIN documents ON documents.id = chunks.document_id
            WHERE chunks_fts MATCH ? AND {where.sql}
            ORDER BY score LIMIT ?"""
        rows = store.rows(sql, (expression, *where.parameters, limit))
    return [(chunk_id, -score) for chunk_id, score in rows]
