"""Words as they are searched for by SQLite's FTS5: the form of an index, Porter-stemmed words, and CJK pairs.

Chinese, Japanese and Korean put no space between words, so their runs are also indexed as single characters and
overlapping pairs, in a column of their own; a query is cut the same way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

TOKENIZER = "porter unicode61 remove_diacritics 2"
"""What FTS5 is to cut an index into, which is then queried by `match_expression`."""

_CJK = re.compile(
    "["
    "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff"  # iteration mark, zero, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u1100-\u11ff\uac00-\ud7ff"  # Hangul
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer: no spaces either
    "]+"
)

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"))

# English words that say nothing about what a text is about. Dropping them from the query loses no ranking worth
# having (their BM25 weight is near 0) and spares FTS5 its longest posting lists.
_ENGLISH = """
    a about am an and any are as at be been being but by can could did do does doing for from had has have having
    he her hers him his how i if in into is it its may me might my no nor not of on or our ours shall she should so
    some such than that the their theirs them then there these they this those to us was we were what when where
    which while who whom whose why will with would you your yours"""
STOP_WORDS = frozenset(_ENGLISH.split())


def index_form(text: str) -> str:
    """The form in which text is indexed and queried: NFKC (a ligature is its letters), invisible characters gone."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", text).translate(_INVISIBLE)


def words(text: str) -> Iterator[str]:
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
    for word in words(text):
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
    found: dict[str, None] = {}
    for word in words(index_form(query).casefold()):
        if _CJK.search(word) is None:
            found[word] = None
            continue
        found.update((plain, None) for plain in _CJK.split(word) if plain)
        for run in _CJK.findall(word):
            letters = _letters(run)
            pairs = [letters[i : i + 2] for i in range(len(letters) - 1)]
            found.update((term, None) for term in pairs or list(letters))
    content = [word for word in found if word not in STOP_WORDS]
    return content or list(found)


def match_expression(query: str) -> str:
    """The FTS5 query for a user's text: its terms as quoted strings, any of which may match; "" for no terms.

    Only letters, digits and marks survive, inside quotes, so no text can be read as FTS5 syntax.
    """
    return " OR ".join(f'"{term}"' for term in query_terms(query))
