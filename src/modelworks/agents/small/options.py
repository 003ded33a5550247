"""What an argument may be: values copied from the query, observations, enums and defaults, in the schema's type.

Each comes with its source, so that a value which is nobody's cannot get into a call, and with how well its place fits
the parameter, by code alone: words of the parameter's name beside it, its kind, its unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from modelworks.agents.small.cues import GENERIC, cue
from modelworks.agents.small.mentions import Mention
from modelworks.agents.small.quantities import Clock, converted, unit_of
from modelworks.agents.small.strings import said, strings
from modelworks.agents.small.texts import Option, Text
from modelworks.agents.small.words import parts, stem, words

MOST_OPTIONS: Final = 24
_DEFAULT: Final = re.compile(
    r"default(?:s)?(?:\s(?:value|to|is|of|as|are))*\s*:?\s*['\"]?((?:[^'\".;)]|\.(?=\d))+?)"
    r"(?=\s+(?:if|when|unless)\s|['\";)]|\.(?!\d)|$)",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"(-?(?:\d[\d,]*\.?\d*|\.\d+))(?:\s*[x*×]\s*10\^(-?\d+))?(?!\w)")
_NEGATIONS: Final = frozenset("not no without don't exclude excluding never".split())


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
    if kind in ("integer", "number", "string", "") and not schema.get("enum"):
        yield from _gaps(name, schema, text, is_number=kind in ("integer", "number"))
    if schema.get("enum"):
        yield from _of_enum(name, schema, text)
    elif kind in ("integer", "number"):
        yield from _numbers(name, schema, text, whole=kind == "integer")
    elif kind == "boolean":
        yield from _truths(name, schema, text)
    elif kind == "array":
        yield from _arrays(name, schema, text, span or (0, len(text.text)))
    elif kind in ("string", ""):
        yield from strings(name, schema, text)
        if not kind:
            yield from _numbers(name, schema, text, whole=False)


# --- by type ----------------------------------------------------------------------------------------------------------


def _gaps(name: str, schema: Mapping[str, Any], text: Text, *, is_number: bool) -> Iterator[Option]:
    """Places where the value would be; they fit about as well as a value there would."""
    for mention in text.mentions:
        if mention.kind == "gap" and (is_number or mention.value == "thing"):
            yield Option(None, text.source, (0.3 if is_number else 1.0) + cue(name, schema, mention, text), mention)


def _of_enum(name: str, schema: Mapping[str, Any], text: Text) -> Iterator[Option]:
    for value in schema["enum"]:
        fit, where = said(str(value), text.text)
        yield Option(value, "enum", fit, where)


def _numbers(name: str, schema: Mapping[str, Any], text: Text, *, whole: bool) -> Iterator[Option]:
    described = f"{' '.join(parts(name))} {schema.get('description', '')}".lower()
    units = {unit_of(word.text) for word in words(described)} - {""}
    has_digits = any(each.kind == "number" and text.text[each.end - 1].isdigit() for each in text.mentions)
    for mention in text.mentions:
        if mention.kind == "time" and re.search(r"hour|time|clock", described):
            clock: Clock = mention.value
            yield Option(_number(clock.hour, whole), text.source, 2.5 + cue(name, schema, mention, text), mention)
        if mention.kind != "number" or text.lies_within(mention, ("date", "time", "quoted")):
            continue
        fit = cue(name, schema, mention, text) - 1.2 * (has_digits and text.text[mention.start].isalpha())
        fit -= 1.5 * text.lies_in_brackets(mention)
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
    cues = {stem(part) for part in parts(name)} - GENERIC - {"is", "includ", "has", "get", "show", "allow"}
    hits = [word for word in words(text.text) if word.stem in cues]
    if hits:
        before = text.text[: hits[0].start].lower().split()[-3:]
        denied = bool(_NEGATIONS & set(before))
        yield Option(not denied, text.source, 2.0, Mention("phrase", not denied, hits[0].start, hits[0].end))
        yield Option(denied, text.source, 0.0)
    else:
        yield Option(True, text.source, 0.3)
        yield Option(False, text.source, 0.0)


def _arrays(name: str, schema: Mapping[str, Any], text: Text, span: tuple[int, int]) -> Iterator[Option]:
    items = schema.get("items") or {}
    kind = kind_of(items)
    for mention in text.mentions:
        if mention.kind == "list" and (made := _items(mention.value, kind)) is not None:
            yield Option(made, text.source, 2.5 + cue(name, schema, mention, text), mention)
    inner = [
        each
        for each in _found(name, items, text)
        if (each.mention is not None or each.source == "enum") and not each.is_gap
    ]
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


def default_of(schema: Mapping[str, Any]) -> Any:
    """The default of a parameter, stated as one or in its description, in its type; None for none."""
    if "default" in schema:
        return schema["default"]
    found = _DEFAULT.search(str(schema.get("description", "")))
    told, kind = (found[1].strip() if found else ""), kind_of(schema)
    if kind in ("integer", "number"):
        number = _NUMBER.match(told)
        value = float(number[1].replace(",", "")) * 10.0 ** int(number[2] or 0) if number else None
        if value is None or (kind == "integer" and not value.is_integer()):
            return None
        return int(value) if kind == "integer" else value
    if kind == "boolean":
        return {"true": True, "false": False}.get(told.lower())
    if schema.get("enum"):
        return next((each for each in schema["enum"] if str(each).lower() == told.lower()), None)
    return (told or None) if kind in ("string", "") else None
