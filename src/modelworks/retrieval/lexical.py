"""Word search: BM25 (Robertson and Zaragoza 2009) by SQLite's FTS5, over Porter-stemmed words and CJK bigrams.

Chinese, Japanese and Korean put no space between words, so their runs are also indexed as single characters and
overlapping pairs, in a column of their own; a query is cut the same way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelworks.retrieval.chunk import index_form
from modelworks.retrieval.where import Filter

if TYPE_CHECKING:
    from modelworks.retrieval.store import Store

TOKENIZER = "porter unicode61 remove_diacritics 2"
COLUMN_WEIGHTS = {"title": 0.5, "heading": 1.0, "index_text": 1.0, "cjk": 1.0}
"""How much one occurrence counts in each column of the index (the order is the table's)."""

_CJK = re.compile(
    "["
    "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff"  # iteration mark, zero, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u1100-\u11ff\uac00-\ud7ff"  # Hangul
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer: no spaces either
    "]+"
)

# English words that say nothing about what a text is about. Dropping them from the query loses no ranking worth
# having (their BM25 weight is near 0) and spares FTS5 its longest posting lists.
_ENGLISH = """
    a about am an and any are as at be been being but by can could did do does doing for from had has have having
    he her hers him his how i if in into is it its may me might my no nor not of on or our ours shall she should so
    some such than that the their theirs them then there these they this those to us was we were what when where
    which while who whom whose why will with would you your yours"""
STOP_WORDS = frozenset(_ENGLISH.split())


def _words(text: str) -> Iterator[str]:
    """Maximal runs of letters, digits and marks: what FTS5's unicode61 may take as tokens."""
    word: list[str] = []
    for character in text:
        category = unicodedata.category(character)
        if category[0] in "LNM" or category == "Co":
            word.append(character)
        elif word:
            yield "".join(word)
            word.clear()
    if word:
        yield "".join(word)


def _letters(run: str) -> str:
    """The run without its marks, which unicode61 would split at."""
    return "".join(character for character in run if unicodedata.category(character)[0] in "LN")


def cjk_terms(text: str) -> str:
    """The extra terms of `text` for the index: singles and pairs of CJK runs, and words glued to such a run.

    "Python入門" gives "Python 入 門 入門": unicode61 would have only "python入門". Empty for text without CJK.
    """
    if _CJK.search(text) is None:
        return ""
    terms: list[str] = []
    for word in _words(text):
        if _CJK.search(word) is None:
            continue
        terms += [plain for plain in _CJK.split(word) if plain]
        for run in _CJK.findall(word):
            letters = _letters(run)
            terms += letters
            terms += [letters[i : i + 2] for i in range(len(letters) - 1)]
    return " ".join(terms)


def query_terms(query: str) -> list[str]:
    """What to look up for a user's text: distinct words and CJK pairs, in order, without stop words.

    A query of nothing but stop words keeps them, so that "to be or not to be" can be found.
    """
    words: dict[str, None] = {}
    for word in _words(index_form(query).casefold()):
        if _CJK.search(word) is None:
            words[word] = None
            continue
        words.update((plain, None) for plain in _CJK.split(word) if plain)
        for run in _CJK.findall(word):
            letters = _letters(run)
            pairs = [letters[i : i + 2] for i in range(len(letters) - 1)]
            words.update((term, None) for term in pairs or list(letters))
    content = [word for word in words if word not in STOP_WORDS]
    return content or list(words)


def match_expression(query: str) -> str:
    """The FTS5 query for a user's text: its terms as quoted strings, any of which may match; "" for no terms.

    Only letters, digits and marks survive, inside quotes, so no text can be read as FTS5 syntax.
    """
    return " OR ".join(f'"{term}"' for term in query_terms(query))


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
