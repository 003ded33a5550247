"""Quality filters: published rules, each of which gives the reason for which it drops a text.

A rule is a function from a `Measure` to a detail such as "38 words, at least 50 wanted", or to "" where it has nothing
against the text. `FILTERS` has the sets of rules by name. Rules are about prose: code and data are not asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError
from modelworks.data.ngrams import Hashes, ngram_hashes

Rule = Callable[["Measure"], str]

_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("•", "‣", "▪", "▸", "●", "◦", "–", "-", "*", "+")
_ELLIPSES = ("...", "…")
_TERMINAL = (
    ".",
    "!",
    "?",
    "。",
    "！",
    "？",
    "…",
    '."',
    '!"',
    '?"',
    ".”",
    "!”",
    "?”",
    ".'",
    ".’",
    "。」",
    "؟",
    "।",
    "۔",
)
_ALPHABETIC = re.compile(r"[^\W\d_]")
_PARAGRAPHS = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?。！？؟।]+[\"'”’»)\]」]*(?=\s|$)|[。！？]")


class Rejection(NamedTuple):
    """Why a text is dropped: the rule's name, such as `gopher/words`, and what it found."""

    rule: str
    detail: str


class Measure:
    """What rules ask of one text, computed when first asked. Shapes: W words."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """What white space separates."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without the space around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [paragraph for paragraph in map(str.strip, _PARAGRAPHS.split(self.text)) if paragraph]

    @cached_property
    def lengths_W(self) -> NDArray[np.int64]:
        return np.fromiter(map(len, self.words), np.int64, len(self.words))

    @cached_property
    def hashes_W(self) -> Hashes:
        # A word's own number will do: no n-gram is compared with one of another text.
        numbers: dict[str, int] = {}
        return np.fromiter((numbers.setdefault(word, len(numbers)) for word in self.words), np.uint64, len(self.words))

    def share_of_top_ngram(self, size: int) -> float:
        """The share of the words' characters that lie within the most frequent n-gram, if it occurs twice or more."""
        grams_N = ngram_hashes(self.hashes_W, size)
        if len(grams_N) < 2:
            return 0.0
        unique, inverse_N, counts = np.unique(grams_N, return_inverse=True, return_counts=True)
        if counts.max() < 2:
            return 0.0
        # Of several that are equally frequent, the longest.
        lengths_N = np.convolve(self.lengths_W, np.ones(size, np.int64), "valid")
        longest = np.zeros(len(unique), np.int64)
        longest[inverse_N] = lengths_N
        top = np.lexsort((longest, counts))[-1]
        return self._share(inverse_N == top, size)

    def share_of_repeated_ngrams(self, size: int) -> float:
        """The share of the words' characters that lie within n-grams that stood in the text before."""
        grams_N = ngram_hashes(self.hashes_W, size)
        if len(grams_N) < 2:
            return 0.0
        repeated_N = np.ones(len(grams_N), bool)
        repeated_N[np.unique(grams_N, return_index=True)[1]] = False
        return self._share(repeated_N, size)

    def _share(self, begins_N: NDArray[np.bool_], size: int) -> float:
        """The share of characters in words that an n-gram which begins at a true place covers; none counts twice."""
        edges = np.zeros(len(self.words) + 1, np.int64)
        starts = np.flatnonzero(begins_N)
        np.add.at(edges, starts, 1)
        np.add.at(edges, starts + size, -1)
        return float(self.lengths_W[np.cumsum(edges)[:-1] > 0].sum() / max(self.lengths_W.sum(), 1))


def _copies(pieces: Sequence[str]) -> tuple[float, float]:
    """The share of pieces that are copies of an earlier one, by number and by characters."""
    if not pieces:
        return 0.0, 0.0
    extra = [(count - 1, piece) for piece, count in Counter(pieces).items()]
    characters = sum(map(len, pieces))
    return sum(n for n, _ in extra) / len(pieces), sum(n * len(piece) for n, piece in extra) / max(characters, 1)


def _at_most(share: float, limit: float, what: str) -> str:
    return f"{share:.1%} {what}, at most {limit:.0%} allowed" if share > limit else ""


def _share(pieces: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, pieces)) / max(len(pieces), 1)


# Gopher: Rae et al. 2021, appendix A.1.1, "Quality Filtering".
def _words(m: Measure) -> str:
    count = len(m.words)
    return "" if 50 <= count <= 100_000 else f"{count} words, 50 to 100,000 wanted"


def _mean_word(m: Measure) -> str:
    mean = float(m.lengths_W.mean()) if m.words else 0.0
    return "" if 3 <= mean <= 10 else f"a mean of {mean:.1f} characters a word, 3 to 10 wanted"


def _symbols(m: Measure) -> str:
    words = max(len(m.words), 1)
    hashes, ellipses = m.text.count("#") / words, sum(map(m.text.count, _ELLIPSES)) / words
    return _at_most(max(hashes, ellipses), 0.1, "of # or … to words")


def _bullets(m: Measure) -> str:
    return _at_most(_share(m.lines, lambda line: line.startswith(_BULLETS)), 0.9, "of lines begin with a bullet")


def _ellipses(m: Measure) -> str:
    return _at_most(_share(m.lines, lambda line: line.endswith(_ELLIPSES)), 0.3, "of lines end with an ellipsis")


def _alphabetic(m: Measure) -> str:
    share = _share(m.words, lambda word: _ALPHABETIC.search(word) is not None)
    return "" if share >= 0.8 else f"{share:.0%} of words have a letter, at least 80% wanted"


def _stop_words(m: Measure) -> str:
    found = _STOP_WORDS.intersection(map(str.lower, m.words))
    return "" if len(found) >= 2 else f"{len(found)} of the words the, be, to, of, and, that, have, with; 2 wanted"


def _lines_copied(m: Measure) -> str:
    return _at_most(_copies(m.lines)[0], 0.30, "of lines are copies")


def _lines_copied_characters(m: Measure) -> str:
    return _at_most(_copies(m.lines)[1], 0.20, "of characters are in copied lines")


def _paragraphs_copied(m: Measure) -> str:
    return _at_most(_copies(m.paragraphs)[0], 0.30, "of paragraphs are copies")


def _paragraphs_copied_characters(m: Measure) -> str:
    return _at_most(_copies(m.paragraphs)[1], 0.20, "of characters are in copied paragraphs")


def _top(size: int, limit: float) -> Rule:
    return lambda m: _at_most(m.share_of_top_ngram(size), limit, f"of characters are in one {size}-gram")


def _repeated(size: int, limit: float) -> Rule:
    return lambda m: _at_most(m.share_of_repeated_ngrams(size), limit, f"of characters are in repeated {size}-grams")


# C4: Raffel et al. 2020, section 2.2; the rules for whole pages. Those for lines are the cleaner "c4-lines".
def _sentences(m: Measure) -> str:
    count = sum(1 for _ in _SENTENCE_END.finditer(m.text))
    return "" if count >= 3 else f"{count} sentences, at least 3 wanted"


def _lorem_ipsum(m: Measure) -> str:
    return "has “lorem ipsum”" if "lorem ipsum" in m.text.lower() else ""


def _curly_bracket(m: Measure) -> str:
    return "has a curly bracket" if "{" in m.text else ""


# FineWeb: Penedo et al. 2024, section 3.6.
def _line_ends(m: Measure) -> str:
    share = _share(m.lines, lambda line: line.endswith(_TERMINAL))
    return "" if share > 0.12 else f"{share:.0%} of lines end with punctuation, more than 12% wanted"


def _copied_characters(m: Measure) -> str:
    return _at_most(_copies(m.lines)[1], 0.1, "of characters are in copied lines")


def _short_lines(m: Measure) -> str:
    return _at_most(_share(m.lines, lambda line: len(line) < 30), 0.67, "of lines are shorter than 30 characters")


FILTERS: Mapping[str, Mapping[str, Rule]] = {
    "gopher": {
        "words": _words,
        "mean-word": _mean_word,
        "symbols": _symbols,
        "bullets": _bullets,
        "ellipses": _ellipses,
        "alphabetic": _alphabetic,
        "stop-words": _stop_words,
    },
    # Table A1.
    "gopher-repetition": {
        "lines": _lines_copied,
        "paragraphs": _paragraphs_copied,
        "line-characters": _lines_copied_characters,
        "paragraph-characters": _paragraphs_copied_characters,
        **{f"top-{size}-gram": _top(size, limit) for size, limit in ((2, 0.20), (3, 0.18), (4, 0.16))},
        **{
            f"repeated-{size}-grams": _repeated(size, limit)
            for size, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
        },
    },
    "c4": {"sentences": _sentences, "lorem-ipsum": _lorem_ipsum, "curly-bracket": _curly_bracket},
    "fineweb": {"line-ends": _line_ends, "copied-characters": _copied_characters, "short-lines": _short_lines},
}


def judge(text: str, filters: Sequence[str]) -> Rejection | None:
    """The first rule of the named sets that drops `text`, or None where all keep it.

    Raises:
        ConfigError: there is no set of rules of such a name.
    """
    measure = Measure(text)
    for name in filters:
        for rule, check in rules(name).items():
            if detail := check(measure):
                return Rejection(f"{name}/{rule}", detail)
    return None


def rules(name: str) -> Mapping[str, Rule]:
    """The set of rules of this name; ConfigError where there is none."""
    if name not in FILTERS:
        raise ConfigError(f"there is no filter {name!r}; there are: {', '.join(FILTERS)}")
    return FILTERS[name]


@lru_cache(maxsize=1)
def _identifier() -> Callable[[str], tuple[str, float]]:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ConfigError("telling languages needs py3langid: pip install 'modelworks[corpus]'") from None
    classify: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).classify
    return classify


def language(text: str) -> tuple[str, float]:
    """The language of `text` by ISO 639 code, and its probability: langid.py (Lui and Baldwin 2012), of 139 languages.

    Of a long text, its first 5,000 characters are read. Raises ConfigError where py3langid is not installed.
    """
    code, probability = _identifier()(text[:5_000])
    return code, float(probability)


def judge_language(text: str, languages: Sequence[str], min_probability: float) -> Rejection | None:
    """Why a text is not of the languages that are wanted, or None where it is."""
    code, probability = language(text)
    if code not in languages:
        return Rejection(f"language/{code}", f"{code} with probability {probability:.2f}")
    if probability < min_probability:
        return Rejection("language/unsure", f"{code} with probability {probability:.2f}, below {min_probability:g}")
    return None
