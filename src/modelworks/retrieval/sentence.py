"""Sentences, the unit of citation: rules over the text, with exact offsets.

A sentence ends at its punctuation, but not at the dots of abbreviations, initials, numbers and list markers; a blank
line, a list item, a heading, a table row and a line of code end one, too. Whether any other line end does depends on
the format: it is a space in Markdown, an end in a table, and a guess where a page or a plain text gives only lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

LineEnds = Literal["guess", "space", "end"]
"""What a line end means that nothing else explains: "guess" ends a sentence where the author broke the line on purpose,
where the next word would have fitted; "space" joins, but for Markdown's hard breaks; "end" always ends."""

MAX_SENTENCE = 1000
"""Characters; what goes on without any punctuation (logs, tables of numbers) is cut at a space."""

_CLOSERS = "\"'”’»)\\]}›*_`"
_TERMINATOR = re.compile(rf"[.!?…؟۔।॥።៕။]+[{_CLOSERS}]*(?:\[\d{{1,3}}\])*[⁰¹²³⁴-⁹]*(?=\s|$)")
_CJK_TERMINATOR = re.compile(r"[。！？｡]+[」』）】”’\"》〉〕]*|[!?]+(?=[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])")
_LINE = re.compile(r"[^\n]*\n?")
_FIRST_WORD = re.compile(r"\s*(\S+)")
_OPENERS = "\"'“‘«([{„‚‹*_`¿¡"

# Lines that stand alone, whatever their neighbours.
_ITEM = re.compile(r"[ \t]*(?:[-*+•‣◦▪●○■□☐☒–—]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]|\[\d{1,3}\])[ \t]+\S")
_ALONE = re.compile(r"#{1,6} |\||>>> |\.\.\. |\$ |(?: {4}|\t)\S|[=~^*#-]{3,}\s*$|```|~~~|\.\. |:\w[\w ]*:")
_CELLS = re.compile(r" \| |\t")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a dot after it abbreviates. The first never ends a sentence; the second does where a sentence seems to begin.
_TITLES = _words(
    "mr mrs ms mx dr prof rev hon st gen col capt cmdr lt sgt maj gov sen rep pres messrs mme mlle sr fr herr hr frau"
    " e.g i.e eg ie cf viz vs v approx ca resp incl excl esp bzw vgl z.b d.h u.a bspw sog evtl zzgl ggf nr p.ej"
    " figs eqs secs chs arts mt ft"
)
_BEFORE_NUMBER = _words(
    "no nos nr fig figs eq eqs sec secs ch chap vol vols p pp pg art para tab ex th thm def lemma prop cor app bd s abb"
    " jan feb mar apr jun jul aug sep sept oct nov dec ver v rev op"
)
_EITHER = _words(
    "etc al inc ltd co corp llc bros dept univ est ave blvd rd jr sr esq ph.d m.d b.a m.a b.sc m.sc d.c u.s u.k u.n e.u"
    " u.s.a a.m p.m am pm a.d b.c ed eds trans repr assn cie gmbh usw u.ä o.ä"
)
_STARTERS = _words(
    "the a an this that these those it he she we they you i there here in on at by for from with when while if as after"
    " before since although however but and so then thus therefore moreover furthermore also another other many most"
    " some all each every no not one two what who why how where which our their his her its my your to during under"
    " over once until unless because despite such both either neither for example note see use"
)
_INITIAL = re.compile(r"(?:^|[\s(\[.\-–])([^\W\d_])$")
_WORD_BEFORE = re.compile(r"[^\s(\[{\"'“‘«/–—-]+$")
_LIST_NUMBER = re.compile(r"\s*(?:\d{1,3}|[a-zA-Z])")
_WORD = re.compile(r"[^\W\d_]+")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")


def sentences(text: str, *, line_ends: LineEnds = "guess") -> list[tuple[int, int]]:
    """The spans of the sentences of `text`, in order, without overlap; every character but white space is in one.

    Args:
        text: prose, or the text of a chunk with its lists, tables and code.
        line_ends: see `LineEnds`.
    """
    spans: list[tuple[int, int]] = []
    for start, end in _segments(text, line_ends):
        at = start
        for border in _borders(text, start, end):
            _add(spans, text, at, border)
            at = border
        _add(spans, text, at, end)
    return spans


def _add(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    """Append the trimmed span, cut where it is too long."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while end - start > MAX_SENTENCE:
        cut = start + MAX_SENTENCE
        space = next((i for i in range(cut, start + MAX_SENTENCE // 2, -1) if text[i].isspace()), cut)
        _add(spans, text, start, space)
        start = space
        while text[start].isspace():
            start += 1
    if start < end:
        spans.append((start, end))


def _segments(text: str, line_ends: LineEnds) -> Iterator[tuple[int, int]]:
    """What line ends separate: paragraphs, items, rows."""
    paragraph: list[tuple[int, int]] = []
    for match in _LINE.finditer(text):
        if match.group().strip():
            paragraph.append(match.span())
        elif paragraph:
            yield from _paragraph(text, paragraph, line_ends)
            paragraph = []
    if paragraph:
        yield from _paragraph(text, paragraph, line_ends)


def _paragraph(text: str, spans: list[tuple[int, int]], line_ends: LineEnds) -> Iterator[tuple[int, int]]:
    if len(spans) == 1:
        yield spans[0]
        return
    rows = [text[start:end].rstrip("\r\n") for start, end in spans]
    width = max(len(row.rstrip()) for row in rows)
    first = 0
    for index in range(1, len(spans)):
        if _breaks(rows[index - 1], rows[index], width, line_ends):
            yield spans[first][0], spans[index - 1][1]
            first = index
    yield spans[first][0], spans[-1][1]


def _breaks(above: str, below: str, width: int, line_ends: LineEnds) -> bool:
    """Whether the line end between two lines of a paragraph `width` characters wide is meant."""
    if line_ends == "end" or _ITEM.match(below) or _ALONE.match(below) or _ALONE.match(above):
        return True
    if line_ends == "space":
        return above.endswith(("  ", "\\"))
    above = above.rstrip()
    if _CELLS.search(above) or _CELLS.search(below):
        return True
    word = _FIRST_WORD.match(below)
    room = width - len(above) - 1 - len(word[1] if word else "")
    return room >= 4 and (not below.lstrip()[:1].islower() or len(above) < 0.6 * width)


def _borders(text: str, start: int, end: int) -> Iterator[int]:
    """Where sentences within a segment end."""
    if text.isascii():
        found = _TERMINATOR.finditer(text, start, end)
        yield from (m.end() for m in found if _ends(text, start, m, end))
        return
    borders = {m.end() for m in _TERMINATOR.finditer(text, start, end) if _ends(text, start, m, end)}
    borders |= {m.end() for m in _CJK_TERMINATOR.finditer(text, start, end)}
    yield from sorted(borders)


def _ends(text: str, start: int, terminator: re.Match[str], end: int) -> bool:
    """Whether the punctuation ends a sentence."""
    at, stop = terminator.span()
    following = stop
    while following < end and (text[following].isspace() or text[following] in _OPENERS):
        following += 1
    if following >= end:
        return True
    next_character = text[following]
    mark = text[at]
    if mark in "!?…؟" or text.startswith("..", at):
        return not next_character.islower()
    if mark != ".":
        return True
    if next_character.islower() or next_character in ",;:)]}":
        # "approx. five", "(ibid.), and"; but a sentence may begin with a name in code: "`json.load`".
        return text[following - 1] == "`" and following - 1 >= stop
    return _dot_ends(text, max(start, at - 40), at, following, end)


def _dot_ends(text: str, start: int, at: int, following: int, end: int) -> bool:
    """Whether a dot before a capital letter, digit or sign ends a sentence."""
    before = text[start:at]
    word = _WORD_BEFORE.search(before)
    token = word.group().lower() if word else ""
    if _LIST_NUMBER.fullmatch(before):
        return False
    next_word = _WORD.match(text, following, end)
    begins = next_word is not None and next_word.group().lower() in _STARTERS
    if token in _TITLES:
        return False
    if token in _BEFORE_NUMBER and (text[following].isdigit() or text[following] in "IVX"):
        return False
    if token in _EITHER:
        return begins
    if _DOTTED.fullmatch(token):  # "N.A.S.A."
        return begins
    if _INITIAL.search(before) and (word is None or word.group()[-1:].isupper()):
        return begins
    return True
