"""What an argument may be: values copied from the query, observations, enums and defaults, in the schema's type.

Each comes with its source, so that a value which is nobody's cannot get into a call, and with how well its place fits
the parameter, by code alone: words of the parameter's name beside it, its kind, its unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

from modelworks.agents.small.mentions import REQUESTS, Mention, enumerations, mentions, starts_sentence
from modelworks.agents.small.quantities import Clock, Day, converted, unit_of
from modelworks.agents.small.words import parts, stem, stems, words

Source: TypeAlias = Literal["query", "observation", "enum", "default", "description"]

MOST_OPTIONS: Final = 24
_QUOTED: Final = re.compile(r"['\"‘“]([^'\"’”]{1,40})['\"’”]")
_DEFAULT: Final = re.compile(r"default(?:s)?(?:\s(?:value|to|is|of|as|are))*\s*:?\s*['\"]?([^'\".;)]+)", re.IGNORECASE)
_REFORMED: Final = re.compile(r"\b([ymd]{2,4}[-/][ymd]{2,4}[-/][ymd]{2,4})\b", re.IGNORECASE)
_GENERIC: Final = frozenset(
    map(stem, "number value name type string list amount given specific calculate optional default format".split())
)
_PLACE: Final = frozenset(map(stem, "location city place country state area region address venue town where".split()))
_LARGE: Final = frozenset(map(stem, "country state region".split()))
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
_VAGUE: Final = frozenset(
    "same both each respectively following current specific certain various different another other one two first "
    "second third details information data result results function list number value".split()
)
_NEGATIONS: Final = frozenset("not no without don't exclude excluding never".split())


@dataclass(frozen=True, slots=True)
class Option:
    """A value that a parameter may have, where it is from, and how well that fits; `mention` is its span."""

    value: Any
    source: Source
    fit: float
    mention: Mention | None = None

    @property
    def text(self) -> str:
        return json.dumps(self.value, ensure_ascii=False)


@dataclass(frozen=True, eq=False)
class Text:
    """A text to copy from, what it mentions, and how it lists that."""

    text: str
    mentions: tuple[Mention, ...]
    groups: tuple[tuple[Mention, ...], ...]
    source: Source = "query"


@lru_cache(maxsize=256)
def read(text: str, source: Source = "query") -> Text:
    found = mentions(text)
    return Text(text, tuple(found), tuple(map(tuple, enumerations(text, found))), source)


def kind_of(schema: Mapping[str, Any]) -> str:
    """The one type of a schema that is not null; "" for any."""
    kind = schema.get("type", "")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "")
    if not kind and schema.get("enum"):
        return "string"
    return str(kind)


def options(
    name: str,
    schema: Mapping[str, Any],
    text: Text,
    span: tuple[int, int] | None = None,
    whole: tuple[int, int] | None = None,
) -> list[Option]:
    """What a parameter may be by one text, the fittest first.

    `span` is the part of the text that the call is about, within `whole`, which it shares with other calls.
    """
    found = _all(name, json.dumps(schema, sort_keys=True), text, span if kind_of(schema) == "array" else None)
    span = span or (0, len(text.text))
    placed = [replace(each, fit=each.fit - _distance(each.mention, span, whole or span)) for each in found]
    best: dict[str, Option] = {}
    for each in sorted(placed, key=lambda option: -option.fit):
        best.setdefault(each.text, each)
    return list(best.values())[:MOST_OPTIONS]


def _distance(mention: Mention | None, span: tuple[int, int], whole: tuple[int, int]) -> float:
    """What it costs to stand outside of the part that a call is about."""
    if mention is None or (span[0] <= mention.start and mention.end <= span[1]):
        return 0.0
    return 0.6 if whole[0] <= mention.start and mention.end <= whole[1] else 1.5


@lru_cache(maxsize=4096)
def _all(name: str, schema: str, text: Text, span: tuple[int, int] | None) -> tuple[Option, ...]:
    return tuple(_found(name, json.loads(schema), text, span))


def _found(name: str, schema: Mapping[str, Any], text: Text, span: tuple[int, int] | None = None) -> Iterator[Option]:
    kind = kind_of(schema)
    if schema.get("enum"):
        yield from _of_enum(name, schema, text)
    elif kind in ("integer", "number"):
        yield from _numbers(name, schema, text, whole=kind == "integer")
    elif kind == "boolean":
        yield from _truths(name, schema, text)
    elif kind == "array":
        yield from _arrays(name, schema, text, span or (0, len(text.text)))
    elif kind in ("string", ""):
        yield from _strings(name, schema, text)
        if not kind:
            yield from _numbers(name, schema, text, whole=False)


# --- by type ----------------------------------------------------------------------------------------------------------


def _of_enum(name: str, schema: Mapping[str, Any], text: Text) -> Iterator[Option]:
    for value in schema["enum"]:
        said, where = _said(str(value), text.text)
        yield Option(value, "enum", said, where)


def _said(value: str, text: str) -> tuple[float, Mention | None]:
    """How far a text says an enum's value: literally, all of its words, some, none."""
    spoken = value.replace("_", " ")
    if literal := re.search(rf"(?<!\w){re.escape(spoken)}(?:e?s)?(?!\w)", text, re.IGNORECASE):
        return 3.0 + 0.02 * len(value), Mention("phrase", value, *literal.span())
    wanted = set(stems(value))
    held = {word.stem: word for word in words(text)}
    hit = [held[each] for each in wanted if each in held]
    if not hit:
        return 0.0, None
    return 3.0 * len(hit) / (len(wanted) + 0.3), Mention("phrase", value, hit[0].start, hit[-1].end)


def _numbers(name: str, schema: Mapping[str, Any], text: Text, *, whole: bool) -> Iterator[Option]:
    described = f"{' '.join(parts(name))} {schema.get('description', '')}".lower()
    units = {unit_of(word.text) for word in words(described)} - {""}
    has_digits = any(each.kind == "number" and text.text[each.end - 1].isdigit() for each in text.mentions)
    for mention in text.mentions:
        if mention.kind == "time" and re.search(r"hour|time|clock", described):
            clock: Clock = mention.value
            yield Option(_number(clock.hour, whole), text.source, 2.5 + cue(name, schema, mention, text), mention)
        if mention.kind != "number" or _within(mention, text, ("date", "time", "quoted")):
            continue
        fit = cue(name, schema, mention, text) - 1.2 * (has_digits and text.text[mention.start].isalpha())
        fit -= 1.5 * _in_brackets(mention, text)
        if mention.unit and units:
            fit += 1.0 if mention.unit in units else 0.0
        elif re.search(r"\byear\b", described) and 1000 <= mention.value <= 2999:
            fit += 1.5
        values = [(mention.value, fit)]
        if mention.percent:
            fit -= whole and not re.search(r"percent|%|rate|probab|chance|share", described)
            as_written = whole or (re.search(r"percent|%", described) and not re.search(r"decimal|\b0?\.\d", described))
            values = [(mention.value, fit + (0.5 if as_written else -0.5)), (mention.value / 100, fit)]
        elif mention.unit and units and mention.unit not in units:
            made = [converted(mention.value, mention.unit, unit) for unit in sorted(units)]
            values = [(value, fit + 1.0) for value in made if value is not None] or values
        for value, fits in values:
            if not whole or float(value).is_integer():
                yield Option(_number(value, whole), text.source, fits, mention)


def _number(value: float, whole: bool) -> int | float:
    return int(value) if whole else round(float(value), 9)


def _truths(name: str, schema: Mapping[str, Any], text: Text) -> Iterator[Option]:
    """True where the query has the parameter's word, unless it is denied; else what the schema says is usual."""
    cues = {stem(part) for part in parts(name)} - _GENERIC - {"is", "includ", "has", "get", "show", "allow"}
    hits = [word for word in words(text.text) if word.stem in cues]
    if hits:
        before = text.text[: hits[0].start].lower().split()[-3:]
        denied = bool(_NEGATIONS & set(before))
        yield Option(not denied, text.source, 2.0, Mention("phrase", not denied, hits[0].start, hits[0].end))
        yield Option(denied, text.source, 0.0)
    else:
        yield Option(True, text.source, 0.3)
        yield Option(False, text.source, 0.0)


def _strings(name: str, schema: Mapping[str, Any], text: Text) -> Iterator[Option]:
    described = f"{' '.join(parts(name))} {schema.get('description', '')}".lower()
    own = {stem(part) for part in parts(name)}
    is_dated = (
        bool(re.search(r"\bdates?\b|\bday\b|yyyy|deadline|birthday", described)) or schema.get("format") == "date"
    )
    if not is_dated:
        for value in implied(schema):
            said, where = _said(value, text.text)
            if said or len(implied(schema)) > 1:
                yield Option(value, "description" if where is None else text.source, said, where)
    if "unit" in own:
        for mention in text.mentions:
            if mention.unit and (written := re.match(r"\s?([^\s,.?!;]+)", text.text[mention.end :])):
                place = replace(mention, start=mention.end, end=mention.end + written.end())
                yield Option(written[1], text.source, 0.9, place)
    has_dates = any(mention.kind == "date" for mention in text.mentions)
    for mention in text.mentions:
        if _in_brackets(mention, text) or (is_dated and has_dates and mention.kind != "date"):
            continue
        near = cue(name, schema, mention, text)
        if mention.kind == "date":
            day: Day = mention.value
            form = _REFORMED.search(described)
            wanted = form[1].lower() if form else "yyyy-mm-dd"
            value = day.forms(text.text).get(wanted, day.day.isoformat())
            yield Option(value, text.source, near + (3.0 if is_dated else -1.0), mention)
        elif mention.kind == "time":
            wants_time = bool(re.search(r"time|hour|when|clock", described))
            value = text.text[mention.start : mention.end]
            twelve = bool(re.search(r"\d\s?[ap]\.?m", described))
            yield Option(mention.value.text, text.source, near + (2.0 if wants_time else -1.0) - twelve, mention)
            yield Option(value, text.source, near + (1.5 if wants_time else -1.0) + twelve, mention)
        elif mention.kind == "quoted":
            spoken = len(mention.value.split()) > 4 and bool(
                re.search(r"text|message|body|content|sentence", described)
            )
            named = 0.9 * bool(own & set(stems(mention.value)))
            yield Option(mention.value, text.source, near + 2.0 + spoken + named, mention)
        elif mention.kind == "id":
            wanted_id = bool(re.search(r"\bid\b|url|file|path|email|address|code|number|link|image", described))
            mailed = 1.5 * ("@" in mention.value and "email" in described)
            yield Option(mention.value, text.source, near + mailed + (1.5 if wanted_id else 0.5), mention)
        elif mention.kind == "expression":
            wanted_one = bool(re.search(r"function|expression|equation|formula|polynomial", described))
            value = mention.value.replace("^", "**") if "**" in described or "python" in described else mention.value
            yield Option(value, text.source, near + (2.5 if wanted_one else -2.0), mention)
        elif mention.kind == "number" and not _within(mention, text, ("date", "time", "quoted", "id", "expression")):
            wanted_number = bool(re.search(r"\byear\b|\bid\b|number|code|zip|season|amount", described))
            value = text.text[mention.start : mention.end]
            yield Option(value, text.source, near + (0.5 if wanted_number else -1.5), mention)
        elif mention.kind == "name" and not _within(mention, text, ("quoted", "id", "date")):
            yield from _named(name, schema, mention, near, text)
        elif mention.kind == "phrase" and not _within(
            mention, text, ("quoted", "date", "number", "time", "name", "id")
        ):
            holds = any(each.kind in ("name", "quoted", "number") and each.overlaps(mention) for each in text.mentions)
            yield Option(mention.value, text.source, near + _phrased(mention.value, own) - 0.8 * holds, mention)


def _named(name: str, schema: Mapping[str, Any], mention: Mention, near: float, text: Text) -> Iterator[Option]:
    described = str(schema.get("description", ""))
    has_place = "," in mention.value
    wants_place = bool(re.search(r"\bstate\b|city, ", described, re.IGNORECASE))
    fit = near + 1.2 + (0.6 if has_place and wants_place else 0.2 if has_place and is_place(name) else -0.3 * has_place)
    own = {stem(part) for part in parts(name)}
    fit -= 0.6 * any(
        each.kind == "name" and each.start < mention.start and each.end == mention.end for each in text.mentions
    )
    fit -= 0.6 * any(
        " of " in str(each.value) and each.start == mention.start and each.end > mention.end
        for each in text.mentions
        if each.kind == "name"
    )
    fit += 0.9 * bool(own & set(stems(mention.value))) - 0.8 * (has_place and bool(own & _LARGE))
    fit -= 0.8 * (" " not in mention.value and starts_sentence(text.text, mention.start))  # its capital says nothing
    yield Option(mention.value, text.source, fit, mention)
    # An example in the description may say how such a value is to be written: "New York, NY" of a New York.
    for example in re.findall(rf"{re.escape(mention.value)}, [A-Z]\w+", described) if is_place(name) else ():
        yield Option(example, "description", fit + 0.8, mention)


def _phrased(value: str, own: set[str]) -> float:
    inner = stems(value)
    repeats = sum(each in own for each in inner)
    asks = sum(word in REQUESTS for word in value.lower().split())
    stops = sum(word.is_stop for word in words(value))
    spoken = value.lower().split()
    vague = sum(word in _VAGUE for word in spoken) + 0.6 * (len(spoken) == 1 and spoken[0].endswith(("ed", "ing")))
    return 0.2 - 0.15 * abs(len(inner) - 1.5) - 0.6 * repeats - 0.8 * (asks + vague) - 0.6 * stops


def _arrays(name: str, schema: Mapping[str, Any], text: Text, span: tuple[int, int]) -> Iterator[Option]:
    items = schema.get("items") or {}
    kind = kind_of(items)
    for mention in text.mentions:
        if mention.kind == "list" and (made := _items(mention.value, kind)) is not None:
            yield Option(made, text.source, 2.5 + cue(name, schema, mention, text), mention)
    inner = [each for each in _found(name, items, text) if each.mention is not None or each.source == "enum"]
    here = [each for each in inner if each.mention and span[0] <= each.mention.start and each.mention.end <= span[1]]
    if items.get("enum") and (said := [each for each in here if each.fit > 1.5]):
        said.sort(key=lambda each: each.mention.start if each.mention else 0)
        yield Option([each.value for each in said], "enum", 2.0 + len(said), said[0].mention)
    for group in text.groups:
        members: list[Any] = []
        for member in group:
            fitting = [one for one in inner if one.mention and one.mention.start >= member.start - 1]
            fitting = [one for one in fitting if one.mention and one.mention.end <= member.end + 1]
            fitting = [one for one in fitting if one.mention and one.mention.end - one.mention.start >= 0]
            if not fitting:
                break
            members.append(max(fitting, key=lambda one: (_size(one), one.fit)).value)
        else:
            listed = Mention("list", members, group[0].start, group[-1].end)
            yield Option(members, text.source, 1.5 + 0.1 * len(members) + cue(name, schema, group[0], text), listed)
    for one in inner:
        yield Option([one.value], one.source, one.fit - 0.5, one.mention)


def _size(option: Option) -> int:
    return option.mention.end - option.mention.start if option.mention else 0


def _items(values: Sequence[Any], kind: str) -> list[Any] | None:
    """A list in the type that its schema wants; None where it cannot be."""
    if kind in ("integer", "number"):
        try:
            made = [float(value) for value in values]
        except (TypeError, ValueError):
            return None
        return [_number(value, kind == "integer") for value in made]
    if kind == "array":
        return list(values) if all(isinstance(value, list) for value in values) else None
    return [str(value) for value in values] if kind == "string" else list(values)


# --- how well a place fits --------------------------------------------------------------------------------------------


def implied(schema: Mapping[str, Any]) -> list[str]:
    """The values that a description names in quotation marks, which is how many a tool states an enum."""
    found = _QUOTED.findall(str(schema.get("description", "")))
    return [value for value in dict.fromkeys(found) if value[:1].isalnum() and "," not in value]


def default_of(schema: Mapping[str, Any]) -> Any:
    """The default of a parameter, stated as one or in its description; None for none."""
    if "default" in schema:
        return schema["default"]
    found = _DEFAULT.search(str(schema.get("description", "")))
    return found[1].strip() if found else None


def _within(mention: Mention, text: Text, kinds: Sequence[str]) -> bool:
    """Whether a span lies in another of these kinds, or is part of it."""
    return any(
        other.kind in kinds and other is not mention and other.start <= mention.start and mention.end <= other.end
        for other in text.mentions
    )


def _in_brackets(mention: Mention, text: Text) -> bool:
    return any(
        other.kind == "list"
        and text.text[other.start] == "["
        and other is not mention
        and other.start <= mention.start
        and mention.end <= other.end
        for other in text.mentions
    )


@lru_cache(maxsize=4096)
def _cues(name: str, description: str) -> tuple[frozenset[str], frozenset[str]]:
    own = frozenset(stem(part) for part in parts(name) if part.lower() not in ("get", "of", "the") and part.isalpha())
    return own, frozenset(stems(description)) - own - _GENERIC


def cue(name: str, schema: Mapping[str, Any], mention: Mention, text: Text) -> float:
    """How strongly the words around a span speak of a parameter."""
    own, said = _cues(name, str(schema.get("description", "")))
    score = 0.0
    before, after = _around(text.text, mention.start, mention.end)
    for distance, word in enumerate(before[:5]):
        weight = (1.0, 0.85, 0.7, 0.5, 0.35)[distance]
        score += weight * (1.6 if word in own else 0.5 if word in said and word not in _GENERIC else 0.0)
    for distance, word in enumerate(after[:3]):
        weight = (0.9, 0.6, 0.35)[distance]
        score += weight * (1.4 if word in own else 0.45 if word in said and word not in _GENERIC else 0.0)
    previous = re.findall(r"[A-Za-z]+", text.text[: mention.start].lower())[-1:]
    for names, befores in _ROLES:
        if own & names and previous and previous[0] in befores:
            score += 1.2
    return score


@lru_cache(maxsize=65_536)
def _around(text: str, start: int, end: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stems before a span, the nearest first, and those after it, within its sentence; "x =" is before."""
    left = re.split(r"[.?!;]\s", text[:start])[-1]
    right = re.split(r"[.?!;](?:\s|$)", text[end:])[0]
    before = [stem(part) for word in words(left) for part in parts(word.text)][::-1]
    after = [stem(part) for word in words(right) for part in parts(word.text)]
    return tuple(before), tuple(after)


def is_place(name: str) -> bool:
    return any(stem(part) in _PLACE for part in parts(name))
