"""How well a place in a text fits a parameter, by the words around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from modelworks.agents.small.mentions import Mention
from modelworks.agents.small.texts import Text
from modelworks.agents.small.words import parts, stem, stems, words

_NEAR: Final = 200  # characters
GENERIC: Final = frozenset(
    map(stem, "number value name type string list amount given specific calculate optional default format".split())
)
_PLACE: Final = frozenset(map(stem, "location city place country state area region address venue town where".split()))
_ROLES: Final[tuple[tuple[frozenset[str], frozenset[str]], ...]] = tuple(
    (frozenset(map(stem, names.split())), frozenset(befores.split()))
    for names, befores in (
        ("start from origin source departure initial begin lower min depart", "from between starting"),
        ("end to destination target arrival final stop upper max arrive recipient receiver", "to into until and"),
        ("location city place country state area region address venue town", "in at near for around of"),
        ("author artist director composer painter writer by", "by"),
        ("date day time when start", "on at for by"),
        ("year", "in for of"),
        ("duration period hour minute", "for"),
    )
)


@lru_cache(maxsize=4096)
def _cues(name: str, description: str) -> tuple[frozenset[str], frozenset[str]]:
    own = frozenset(stem(part) for part in parts(name) if part.lower() not in ("get", "of", "the") and part.isalpha())
    return own, frozenset(stems(description)) - own - GENERIC


def cue(name: str, schema: Mapping[str, Any], mention: Mention, text: Text) -> float:
    """How strongly the words around a span speak of a parameter."""
    own, said = _cues(name, str(schema.get("description", "")))
    score = 0.0
    before, after = _around(text.text, mention.start, mention.end)
    for distance, word in enumerate(before[:5]):
        weight = (1.0, 0.85, 0.7, 0.5, 0.35)[distance]
        score += weight * (1.6 if word in own else 0.5 if word in said and word not in GENERIC else 0.0)
    for distance, word in enumerate(after[:3]):
        weight = (0.9, 0.6, 0.35)[distance]
        score += weight * (1.4 if word in own else 0.45 if word in said and word not in GENERIC else 0.0)
    previous = re.findall(r"[A-Za-z]+", text.text[max(0, mention.start - _NEAR) : mention.start].lower())[-1:]
    for names, befores in _ROLES:
        if own & names and previous and previous[0] in befores:
            score += 1.2
    return score


@lru_cache(maxsize=65_536)
def _around(text: str, start: int, end: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stems before a span, the nearest first, and those after it, within its sentence; "x =" is before."""
    left = re.split(r"[.?!;]\s", text[max(0, start - _NEAR) : start])[-1]
    right = re.split(r"[.?!;](?:\s|$)", text[end : end + _NEAR])[0]
    before = [stem(part) for word in words(left) for part in parts(word.text)][::-1]
    after = [stem(part) for word in words(right) for part in parts(word.text)]
    return tuple(before), tuple(after)


def is_place(name: str) -> bool:
    return any(stem(part) in _PLACE for part in parts(name))
