"""Words as tool and text share them: names split into their parts, endings cut, words that say nothing left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*")
_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])|_|\.")
STOP_WORDS: Final = frozenset(
    """
    a about after all also am an and any are as at be been before being but by can could did do does for from had
    has have having he her here hers him his how i if in into is it its just kindly let like many me might much my
    need no nor not of off on or our out over please shall she should so some such than that the their theirs them
    then there these they this those through to too under up us using via want was we were what when where which
    while who whom whose why will with within would you your yours i'm i'd i've what's
    """.split()
)
INDEFINITE: Final = frozenset(
    """
    it this that these those them one ones some something someone somebody somewhere anything anyone anybody anywhere
    whatever whichever whoever wherever
    """.split()
)
"""Words that stand for what is not said; articles, quantifiers and questions are none of them."""
_ENDINGS: Final = (
    ("ations", ""),
    ("ation", ""),
    ("ities", "ity"),
    ("ying", "y"),
    ("ings", ""),
    ("ing", ""),
    ("ied", "y"),
    ("ies", "y"),
    ("ers", ""),
    ("ed", ""),
    ("er", ""),
    ("ment", ""),
    ("es", ""),
    ("s", ""),
    ("e", ""),
)


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """A word without its ending: rough, and the same for "calculate", "calculated" and "calculating"."""
    word = word.lower()
    for ending, left in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) + len(left) >= 3 and not word.endswith("ss"):
            word = word[: len(word) - len(ending)] + left
            break
    if len(word) > 4 and word.endswith("e"):
        word = word[:-1]
    if len(word) > 5 and word.endswith("at"):
        word = word[:-2]
    return word


def is_indefinite(text: str) -> bool:
    """Whether a text names nothing: all of its words that could are indefinite, as in "that one"."""
    said = [word.text.lower() for word in words(text)]
    return any(word in INDEFINITE for word in said) and all(word in INDEFINITE | STOP_WORDS for word in said)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, and where it stands."""

    text: str
    start: int
    end: int

    @property
    def stem(self) -> str:
        return stem(self.text.removesuffix("'s").removesuffix("’s"))

    @property
    def is_stop(self) -> bool:
        return self.text.lower() in STOP_WORDS


def words(text: str) -> Iterator[Word]:
    """The words of a text; "don't" is one, "get_user" are two."""
    for found in _WORD.finditer(text):
        yield Word(found.group(), found.start(), found.end())


def parts(name: str) -> list[str]:
    """The words that a name is made of: of "get_userName" get, user, name."""
    return [part for part in _CAMEL.split(name) if part]


def stems(text: str) -> list[str]:
    """The stems of a text's words that say something, names split into their parts."""
    return [stem(part) for word in words(text) for part in parts(word.text) if part.lower() not in STOP_WORDS]
