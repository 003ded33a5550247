"""What a text mentions that could be an argument: numbers, dates, quotations, names, identifiers, phrases, lists.

Each is a span of the text with the value that it stands for, so whatever is made of it can be traced to its place. A
gap is a place where a value would be and is not: "something", "that one", and for a number "some".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

from modelworks.agents.small.quantities import clocks, days, numbers
from modelworks.agents.small.words import Word, words

Kind: TypeAlias = Literal["number", "date", "time", "quoted", "name", "id", "expression", "phrase", "list", "gap"]

_LONGEST_PHRASE: Final = 5
_LONGEST_QUOTED: Final = 120
REQUESTS: Final = frozenset(
    """
    add adjust analyse analyze apply arrange assess book bring buy calculate call cancel change check classify collect
    compare compile compute configure confirm convert count create delete derive describe detect determine discover
    display divide download draw estimate evaluate examine execute explain extract fetch figure filter find forecast
    generate get give help identify integrate investigate know list locate look make measure modify multiply need notify
    obtain open order organise organize perform pick plan play plot predict prepare provide pull purchase put read
    recommend record remind remove rent reserve retrieve return review run save schedule search select send set show
    sing solve sort start stop study submit suggest sum summarise summarize tell track transfer translate turn update
    use verify view visit want write compute simulate
    """.split()
)
"""Verbs that a request begins with."""
_QUOTED: Final = re.compile(
    r"(?<!\w)'(?P<a>[^'\n]+(?:'\w[^'\n]*)*)'(?!\w)|\"(?P<b>[^\"\n]+)\"|“(?P<c>[^”\n]+)”|‘(?P<d>[^’\n]+)’|`(?P<e>[^`\n]+)`"
)
_ID: Final = re.compile(
    r"https?://[^\s,;'\"]*[\w/]|[\w.+-]+@[\w-]+\.[\w.]*\w|(?:[A-Za-z]:)?[\w.~-]*(?:/[\w.-]+)+\.\w+"
    r"|\b\d{4}[-–/]\d{2,4}\b|\b\w+/\w*\d\w*\b|\b[\w-]+\.(?:com|org|net|io|edu|gov)\b|\b\w+(?:_\w+)+(?:\.\w+)?\b|\b(?=\w*\d)(?=\w*[A-Za-z])\w+(?:-\w+)*\b"
    r"|\b#?[\w-]+\.(?:csv|tsv|txt|jsonl?|pdf|png|jpe?g|gif|svg|xlsx?|docx?|pptx?|md|html?|xml|ya?ml|toml|log|py|js|sh|sql|db"
    r"|zip|gz|tar|wav|mp[34]|parquet)\b"
)
_CAPITAL: Final = r"(?:(?:Dr|Mrs?|Ms|St|Jr|Prof)\.|(?:[A-Z]\.)+|[A-Z][\w'’&-]*)"
_NAME: Final = re.compile(
    rf"\b{_CAPITAL}(?:(?:\s(?:of|of\sthe|de|la|van|von))?\s(?:{_CAPITAL}|\d{{1,4}}\b(?![.,]\d)))*"
)
_PLACE: Final = re.compile(
    r",\s(?:[A-Z]{2}\b|[A-Z]\.(?:[A-Z]\.)+|[A-Z][a-z]+(?:\s[A-Z][a-z]+)?(?!\s*(?:,|and\b|or\b|&)|[a-z]|\s[A-Z]))"
)
_EXPRESSION: Final = re.compile(
    r"(?:(?<=\s)|(?<==)|^)[-(]*(?:\d*\.?\d*\s?\*?\s?)?[a-z](?:\^|\*\*)?\(?-?\d*\)?(?:\s?[-+*/^]{1,2}\s?[-(]*(?:[\d.]+\*?[a-z]?|[a-z])"
    r"(?:(?:\^|\*\*)-?\d+)?\)?)*(?=[\s.,?;]|$)"
)
_OPERAND: Final = r"\(*-?\(*(?:\d[\d,]*\.?\d*|\.\d+)%?\)*"
_ARITHMETIC: Final = re.compile(rf"(?<![\w.]){_OPERAND}(?:(?:\s*(?:\*\*|[+*/^×÷])\s*|\s+-\s+){_OPERAND})+(?!\w)")
_ROOT: Final = re.compile(r"\b(?:the\s+)?square\s+root\s+of\s+(\d[\d,]*(?:\.\d+)?)", re.IGNORECASE)
_AMOUNT: Final = re.compile(r"\s+\d\S*")
_LIST: Final = re.compile(r"\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\]|\([-\d.]+(?:\s?,\s?[-\d.]+)+\)")
_KEY: Final = re.compile(r"[{,]\s*\"[^\"\n]*\"\s*:")  # of an object in JSON
_GAP: Final = re.compile(
    r"\b(?:some|any)(?:thing|one|body|where)\b|\b(?:that|this|the(?:\s\w+)?)\sone\b"
    r"|\byou\sknow\s(?:who|what|which|where)\b|_{2,}|\bTB[AD]\b|\?{2,}"
    r"|(?:(?<=\bof )|(?<=\bto )|(?<=\bat )|(?<=\bin )|(?<=\bon )|(?<=\bfor ))"
    r"(?:it|this|that|them|these|those)(?=[.?!]|\s*$)"
    r"|(?P<amount>\b(?:some|several|a\sfew|an?\s(?:certain|unknown)|as\s(?:many|much)|(?:so|that)\s(?:many|much))\b)",
    re.IGNORECASE,
)
_BETWEEN: Final = re.compile(
    r"\s*(?:,|,?\s?(?:and|&|or|then|as\swell\sas|versus|vs\.?)\s)\s*(?:then\s)?", re.IGNORECASE
)
_LIGHT: Final = re.compile(r"\b(?:the|a|an|of|for|in|at|with|by|from|on|another|also|is|both)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    """A span of a text, and the value that it stands for."""

    kind: Kind
    value: Any
    start: int
    end: int
    unit: str = ""
    percent: bool = False

    def overlaps(self, other: Mention) -> bool:
        return self.start < other.end and other.start < self.end


def mentions(text: str) -> list[Mention]:
    """All that a text mentions, by place; spans may overlap."""
    found: list[Mention] = []
    for number in numbers(text):
        found.append(Mention("number", number.value, number.start, number.end, number.unit, number.percent))
    for day in days(text):
        found.append(Mention("date", day, day.start, day.end))
    for clock in clocks(text):
        found.append(Mention("time", clock, clock.start, clock.end))
    whole = re.match(r"\s*[\"“'](?=.*[\"”']\s*$)", text, re.DOTALL)  # a text that is itself in quotation marks
    for quoted in _QUOTED.finditer(text, whole.end() if whole and len(text) > _LONGEST_QUOTED else 0):
        if len(quoted.group()) > _LONGEST_QUOTED:
            continue
        found.append(Mention("quoted", quoted[quoted.lastgroup or 0], quoted.start(), quoted.end()))
    for match in _ID.finditer(text):
        found.append(Mention("id", match.group(), *match.span()))
    found += _names(text)
    found += _lists(text)
    for match in _EXPRESSION.finditer(text):
        if re.search(r"[a-z]", match.group()) and re.search(r"[\d^*+/]", match.group()):
            found.append(Mention("expression", match.group().strip(), *match.span()))
    for match in _ARITHMETIC.finditer(text):
        if match.group().count("(") == match.group().count(")"):
            found.append(Mention("expression", match.group(), *match.span()))
    for match in _ROOT.finditer(text):
        found.append(Mention("expression", f"sqrt({match[1]})", *match.span()))
    found += _phrases(text)
    found += [Mention("gap", match.lastgroup or "thing", *match.span()) for match in _GAP.finditer(text)]
    keys = [match.span() for match in _KEY.finditer(text)]
    found = [each for each in found if not any(start <= each.start and each.end <= end for start, end in keys)]
    return sorted(found, key=lambda mention: (mention.start, -mention.end))


def starts_sentence(text: str, at: int) -> bool:
    before = text[:at].rstrip(" \t\"'“‘(")
    return not before or before[-1] in ".?!:;\n"


def _names(text: str) -> Iterator[Mention]:
    for match in _NAME.finditer(text):
        start, end = match.span()
        first = re.match(r"[\w'’&-]+", match.group())
        assert first is not None
        word = Word(first.group(), start, start + first.end())
        is_request = starts_sentence(text, start) and word.text.lower() in REQUESTS
        if is_request or (word.is_stop and starts_sentence(text, start)):
            start = word.end
            if amount := _AMOUNT.match(text, start, end):  # "Convert 100 USD"
                start = amount.end()
        yield from _parts_of_name(text, start, end)
        if word.is_stop and start == word.start:
            yield from _parts_of_name(text, word.end, end)


def _parts_of_name(text: str, start: int, end: int) -> Iterator[Mention]:
    """A run of capitalised words; the place behind it with it; and what small words join in it, each by itself."""
    start += len(text[start:end]) - len(text[start:end].lstrip(" ."))
    name = text[start:end]
    name = name if re.search(r"\.\w\.$", name) else name.rstrip(".'’")
    name = re.sub(r"['’]s$", "", name)
    if not name or name.lower() == "i":
        return
    yield Mention("name", name, start, start + len(name))
    if place := _PLACE.match(text, start + len(name)):
        yield Mention("name", text[start : place.end()], start, place.end())
    joined = list(re.finditer(r"\s(?:of|of\sthe|de|la|van|von)\s", name))
    for before, after in pairwise([0, *(match.end() for match in joined), len(name) + 1]):
        part = re.sub(r"\s(?:of|of\sthe|de|la|van|von)?\s?$", "", name[before:after])
        if joined and part:
            yield Mention("name", part, start + before, start + before + len(part))


def _lists(text: str) -> Iterator[Mention]:
    for match in _LIST.finditer(text):
        inner = match.group().replace("(", "[").replace(")", "]")
        try:
            yield Mention("list", json.loads(inner.replace("'", '"')), *match.span())
        except ValueError:
            items = [item.strip(" '\"") for item in inner[1:-1].split(",")]
            yield Mention("list", [item for item in items if item], *match.span())


def _phrases(text: str) -> Iterator[Mention]:
    """Runs of words without a mark between, neither beginning nor ending with one that says nothing."""
    run: list[Word] = []
    for word in (*words(text), None):
        if run and (word is None or not re.fullmatch(r"[ \t]|-|['’]s ", text[run[-1].end : word.start])):
            yield from _within(text, run)
            run = []
        if word is not None:
            run.append(word)


def _within(text: str, run: Sequence[Word]) -> Iterator[Mention]:
    for at, first in enumerate(run):
        if first.is_stop or (starts_sentence(text, first.start) and first.text.lower() in REQUESTS):
            continue
        for last in run[at : at + _LONGEST_PHRASE]:
            if last.is_stop or (last.text.isdigit() and last is first):
                continue
            yield Mention("phrase", text[first.start : last.end].removesuffix("'s"), first.start, last.end)


# --- enumerations -----------------------------------------------------------------------------------------------------


def enumerations(text: str, found: Sequence[Mention]) -> list[list[Mention]]:
    """Groups of mentions of one kind that are listed: "A, B and C", "5 and 10 meters", "copper and aluminum"."""
    groups: list[list[Mention]] = []
    for kinds in (("number",), ("quoted",), ("date",), ("time",), ("id",), ("name",)):
        alike = _longest([mention for mention in found if mention.kind in kinds])
        group: list[Mention] = []
        for mention in (*alike, None):
            if group and (mention is None or not _is_listed(text[group[-1].end : mention.start], group[-1])):
                if len(group) > 1:
                    groups.append(group)
                group = []
            if mention is not None:
                group.append(mention)
    groups += _worded(text)
    return groups


def _longest(found: Sequence[Mention]) -> list[Mention]:
    """Those that lie in no other, in order."""
    return [
        one
        for one in found
        if not any(other is not one and other.start <= one.start and one.end <= other.end for other in found)
    ]


def _is_listed(between: str, before: Mention) -> bool:
    if before.kind == "number":
        between = re.sub(r"^\s?(?:°\s?)?[A-Za-zµ²³/%^]+(?:\^?[23])?(?=[\s,]|$)", _unless_joining, between)
    bare = " ".join(["", *_LIGHT.sub(" ", between).split(), ""])
    return bool(_BETWEEN.fullmatch(bare)) and len(between) < 30


def _unless_joining(match: re.Match[str]) -> str:
    return match.group() if match.group().strip().lower() in ("and", "or", "to", "then", "with", "vs") else ""


def _worded(text: str) -> list[list[Mention]]:
    """Plain words that are listed, each up to three words long and all in lower case."""
    joined = re.compile(
        r"(?<![\w'-])((?:[a-z][\w'-]*\s){0,2}[a-z][\w'-]*)((?:,\s(?:[a-z][\w'-]*\s?){1,3})*),?\s(?:and|or|&)\s(?:the\s|an?\s)?"
        r"((?:[a-z][\w'-]*\s){0,2}[a-z][\w'-]*)"
    )
    groups = []
    for match in joined.finditer(text):
        middle = [part for part in re.finditer(r"[^,]+", match[2]) if part.group().strip()]
        spans = [
            match.span(1),
            *((match.start(2) + m.start(), match.start(2) + m.end()) for m in middle),
            match.span(3),
        ]
        items = [_trimmed(text, start, end, keep_last=at < len(spans) - 1) for at, (start, end) in enumerate(spans)]
        if all(item is not None for item in items):
            groups.append([item for item in items if item is not None])
    return groups


def _trimmed(text: str, start: int, end: int, *, keep_last: bool) -> Mention | None:
    """The words of a list's item: those after the last (before the first, for the last item) that says nothing."""
    inner = [Word(word.text, word.start + start, word.end + start) for word in words(text[start:end])]
    stops = [at for at, word in enumerate(inner) if word.is_stop or word.text.lower() in REQUESTS]
    if stops:
        inner = inner[stops[-1] + 1 :] if keep_last else inner[: stops[0]]
    if not inner:
        return None
    return Mention("phrase", text[inner[0].start : inner[-1].end], inner[0].start, inner[-1].end)
