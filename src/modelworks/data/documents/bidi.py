"""Right-to-left lines of a PDF in logical order.

PDFium reverses each right-to-left stretch, but takes the line as a whole for left-to-right: numbers and foreign words
land in the wrong place. Words are therefore ordered anew by where they stand; only the letters of a word are PDFium's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
_RIGHT_TO_LEFT = ("R", "AL")
_LEFT_TO_RIGHT = ("L", "EN", "AN")
_OPENING, _CLOSING = "([{<«‹", ")]}>»›"
_MIRROR = str.maketrans(_OPENING + _CLOSING, _CLOSING + _OPENING)


@dataclass(frozen=True, slots=True)
class Piece:
    """A word, or a sign between words, and the x-interval that it takes."""

    text: str
    left: float
    right: float
    direction: int
    """-1 right to left, 1 left to right, 0 neutral."""


def has_rtl(text: str) -> bool:
    """Whether `text` holds a right-to-left letter; quick for text that does not."""
    return not text.isascii() and any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in text if c >= "\u0590")


def pieces(characters: Sequence[str], boxes: Sequence[Box]) -> list[Piece]:
    """The pieces of a run of characters in PDFium's order; white space only parts them."""
    result: list[Piece] = []
    start = 0
    while start < len(characters):
        direction = _direction(characters[start])
        stop = start + 1
        if direction:
            while stop < len(characters) and _joins(direction, characters, stop):
                stop += 1
        if not characters[start].isspace():
            text = "".join(characters[start:stop])
            places = boxes[start:stop]
            if direction < 0 and len(text) > 1 and all(place == places[0] for place in places):
                # One glyph that the font maps to a whole word: PDFium has reversed what was in logical order.
                text = text[::-1]
            result.append(Piece(text, min(p[0] for p in places), max(p[2] for p in places), direction))
        start = stop
    return result


def logical(pieces: Iterable[Piece], em: float) -> str:
    """The pieces of one line in the order in which they are read; `em` is the font's size."""
    line = sorted(pieces, key=lambda piece: (piece.left, piece.right))
    base = _base(line)
    if base < 0:
        line.reverse()
    ordered: list[Piece] = []
    start = 0
    while start < len(line):
        stop = start + 1
        if line[start].direction == -base:  # a stretch against the line's direction reads the other way round
            last = start
            while stop < len(line) and line[stop].direction != base:
                last = stop if line[stop].direction == -base else last
                stop += 1
            stop = last + 1
            ordered += reversed(line[start:stop])
        else:
            ordered.append(line[start])
        start = stop
    parts = [ordered[0].text] if ordered else []
    for a, b in pairwise(ordered):
        gap = max(a.left, b.left) - min(a.right, b.right)
        parts += [" " if gap > 0.12 * em or gap < -0.5 * em else "", b.text]
    text = "".join(parts)
    brackets = [character for character in text if character in _OPENING + _CLOSING]
    # Some producers store the glyph as drawn, some as meant: pairs that close before they open were drawn.
    if base < 0 and brackets and brackets[0] in _CLOSING and brackets[-1] in _OPENING:
        text = text.translate(_MIRROR)
    return text


def _base(line: Sequence[Piece]) -> int:
    """The direction of a line: that of its outermost words, where they agree, else of most of its letters."""
    strong = [piece for piece in line if piece.direction]
    if strong and strong[0].direction == strong[-1].direction:
        return strong[0].direction
    return -1 if sum(piece.direction * len(piece.text) for piece in strong) < 0 else 1


def _direction(character: str) -> int:
    kind = unicodedata.bidirectional(character)
    return -1 if kind in _RIGHT_TO_LEFT or kind == "NSM" else 1 if kind in _LEFT_TO_RIGHT else 0


def _joins(direction: int, characters: Sequence[str], index: int) -> bool:
    """Whether the character belongs to the word before it: same direction, or a sign inside a number or name."""
    here = _direction(characters[index])
    if here == direction or unicodedata.bidirectional(characters[index]) == "NSM":
        return True
    inside = here == 0 and direction > 0 and not characters[index].isspace() and index + 1 < len(characters)
    return inside and _direction(characters[index + 1]) == direction
