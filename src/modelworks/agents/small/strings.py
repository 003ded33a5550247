"""What a parameter of type string may be, by each kind of thing that a text mentions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from modelworks.agents.small.cues import cue, is_place
from modelworks.agents.small.mentions import REQUESTS, Kind, Mention, starts_sentence
from modelworks.agents.small.quantities import Day
from modelworks.agents.small.texts import Option, Text
from modelworks.agents.small.words import INDEFINITE, is_indefinite, parts, stem, stems, words

_QUOTED: Final = re.compile(r"['\"‘“]([^'\"’”]{1,40})['\"’”]")
_REFORMED: Final = re.compile(r"\b([ymd]{2,4}[-/][ymd]{2,4}[-/][ymd]{2,4})\b", re.IGNORECASE)
_LARGE: Final = frozenset(map(stem, "country state region".split()))
_VAGUE: Final = frozenset(
    "same both each respectively following current specific certain various different another other one two first "
    "second third details information data result results function list number value".split()
)


@dataclass(frozen=True)
class _Wanted:
    """A parameter, and what its name and description say that it is."""

    name: str
    told: str
    """The description as it is."""

    @property
    def own(self) -> set[str]:
        return {stem(part) for part in parts(self.name)}

    def says(self, pattern: str) -> bool:
        return re.search(pattern, f"{' '.join(parts(self.name))} {self.told}".lower()) is not None


def strings(name: str, schema: Mapping[str, Any], text: Text) -> Iterator[Option]:
    """What a text has for a parameter that is a string, with how well that fits."""
    wanted = _Wanted(name, str(schema.get("description", "")))
    is_dated = schema.get("format") == "date" or wanted.says(r"\bdates?\b|\bday\b|yyyy|deadline|birthday")
    if not is_dated:
        named = implied(schema)
        for value in named:
            fit, where = said(value, text.text)
            if fit or len(named) > 1:
                yield Option(value, "description" if where is None else text.source, fit, where)
    if "unit" in wanted.own:
        yield from _units(text)
    only_dates = is_dated and any(mention.kind == "date" for mention in text.mentions)
    for mention in text.mentions:
        if text.lies_in_brackets(mention) or (only_dates and mention.kind != "date") or _names_nothing(mention):
            continue
        if mention.kind in _READERS and not text.lies_within(mention, _HIDDEN.get(mention.kind, ())):
            near = cue(name, schema, mention, text)
            for value, fit in _READERS[mention.kind](wanted, mention, text):
                # A name may be written as an example in the description has it, which is no copy of the text.
                is_example = mention.kind == "name" and value != mention.value
                yield Option(value, "description" if is_example else text.source, near + fit, mention)


def _names_nothing(mention: Mention) -> bool:
    """Whether a mention stands for what is not said: "something", "that one"; of plain words, a part is enough."""
    if mention.kind == "phrase":
        return any(word.text.lower() in INDEFINITE for word in words(mention.value))
    return mention.kind in ("quoted", "name") and is_indefinite(mention.value)


def implied(schema: Mapping[str, Any]) -> list[str]:
    """The values that a description names in quotation marks, which is how many a tool states an enum."""
    found = _QUOTED.findall(str(schema.get("description", "")))
    return [value for value in dict.fromkeys(found) if value[:1].isalnum() and "," not in value]


def said(value: str, text: str) -> tuple[float, Mention | None]:
    """How far a text says an enum's value: literally, all of its words, some, none."""
    spoken = value.replace("_", " ")
    if literal := re.search(rf"(?<!\w){re.escape(spoken)}(?:e?s)?(?!\w)", text, re.IGNORECASE):
        return 3.0 + 0.02 * len(value), Mention("phrase", value, *literal.span())
    wanted = set(stems(value))
    held = {word.stem: word for word in words(text)}
    hit = sorted((held[each] for each in wanted if each in held), key=lambda word: word.start)
    if not hit:
        return 0.0, None
    return 3.0 * len(hit) / (len(wanted) + 0.3), Mention("phrase", value, hit[0].start, hit[-1].end)


def _units(text: Text) -> Iterator[Option]:
    for mention in text.mentions:
        if mention.unit and (written := re.match(r"\s?([^\s,.?!;()]+)", text.text[mention.end :])):
            place = replace(mention, start=mention.end, end=mention.end + written.end())
            yield Option(written[1], text.source, 0.9, place)


# --- by kind: values with their fit, beside that of their place -------------------------------------------------------

Fitting: TypeAlias = Iterator[tuple[str, float]]


def _date(wanted: _Wanted, mention: Mention, text: Text) -> Fitting:
    day: Day = mention.value
    form = _REFORMED.search(wanted.told)
    is_dated = wanted.says(r"\bdates?\b|\bday\b|yyyy|deadline|birthday")
    forms = day.forms(text.text)
    yield forms.get(form[1].lower() if form else "yyyy-mm-dd", day.day.isoformat()), 3.0 if is_dated else -1.0


def _time(wanted: _Wanted, mention: Mention, text: Text) -> Fitting:
    twelve = wanted.says(r"\d\s?[ap]\.?m")
    is_timed = wanted.says(r"time|hour|when|clock")
    yield mention.value.text, (2.0 if is_timed else -1.0) - twelve
    yield text.text[mention.start : mention.end], (1.5 if is_timed else -1.0) + twelve


def _quoted(wanted: _Wanted, mention: Mention, text: Text) -> Fitting:
    is_spoken = len(mention.value.split()) > 4 and wanted.says(r"text|message|body|content|sentence")
    yield mention.value, 2.0 + is_spoken + 0.9 * bool(wanted.own & set(stems(mention.value)))


def _id(wanted: _Wanted, mention: Mention, text: Text) -> Fitting:
    mailed = 1.5 * ("@" in mention.value and wanted.says("email"))
    yield mention.value, mailed + (1.5 if wanted.says(_IDS) else 0.5)


_IDS: Final = r"\bid\b|url|file|path|email|address|code|number|link|image"


def _expression(wanted: _Wanted, mention: Mention, text: Text) -> Fitting:
    value = mention.value.replace("^", "**") if wanted.says(r"\*\*|python") else mention.value
    yield value, 2.5 if wanted.says(r"function|expression|equation|formula|polynomial") else -2.0


def _number(wanted: _Wanted, mention: Mention, text: Text) -> Fitting:
    is_wanted = wanted.says(r"\byear\b|\bid\b|number|code|zip|season|amount")
    yield text.text[mention.start : mention.end], 0.5 if is_wanted else -1.5


def _name(wanted: _Wanted, mention: Mention, text: Text) -> Fitting:
    own, place = wanted.own, "," in mention.value
    in_form = re.search(r"\bstate\b|city, ", wanted.told, re.IGNORECASE) is not None
    fit = 1.2 + (0.6 if place and in_form else 0.2 if place and is_place(wanted.name) else -0.3 * place)
    names = [other for other in text.mentions if other.kind == "name"]
    fit -= 0.6 * any(other.start < mention.start and other.end == mention.end for other in names)
    fit -= 0.6 * any(
        " of " in str(other.value) and other.start == mention.start and other.end > mention.end for other in names
    )
    fit += 0.9 * bool(own & set(stems(mention.value))) - 0.8 * (place and bool(own & _LARGE))
    fit -= 0.8 * (" " not in mention.value and starts_sentence(text.text, mention.start))  # its capital says nothing
    yield mention.value, fit
    # An example in the description may say how such a value is to be written: "New York, NY" of a New York.
    if is_place(wanted.name):
        for example in re.findall(rf"{re.escape(mention.value)}, [A-Z]\w+", wanted.told):
            yield example, fit + 0.8


def _phrase(wanted: _Wanted, mention: Mention, text: Text) -> Fitting:
    spoken, inner = mention.value.lower().split(), stems(mention.value)
    repeats = sum(each in wanted.own for each in inner)
    asks = sum(word in REQUESTS for word in spoken)
    stops = sum(word.is_stop for word in words(mention.value))
    vague = sum(word in _VAGUE for word in spoken) + 0.6 * (len(spoken) == 1 and spoken[0].endswith(("ed", "ing")))
    holds = any(each.kind in ("name", "quoted", "number") and each.overlaps(mention) for each in text.mentions)
    fit = 0.2 - 0.15 * abs(len(inner) - 1.5) - 0.6 * (repeats + stops) - 0.8 * (asks + vague + holds)
    yield mention.value, fit


_READERS: Final[Mapping[Kind, Callable[[_Wanted, Mention, Text], Fitting]]] = {
    "date": _date,
    "time": _time,
    "quoted": _quoted,
    "id": _id,
    "expression": _expression,
    "number": _number,
    "name": _name,
    "phrase": _phrase,
}
_HIDDEN: Final[Mapping[Kind, tuple[Kind, ...]]] = {
    "number": ("date", "time", "quoted", "id", "expression"),
    "name": ("quoted", "id", "date"),
    "phrase": ("quoted", "date", "number", "time", "name", "id"),
}
"""In what a mention of a kind says nothing by itself."""
