"""How many calls a request wants, and which tool each part of it is about: decided by code.

A request is cut into pieces where sentences end and where "and", "then" or a comma joins; each piece goes to the tool
that it is like, and changing the tool has a price (Viterbi). Within the part of one tool, values are dealt to its
parameters; where there are more alike than one call can take ("the weather in Boston and Rome", "a radius of 5, then
one of 10"), each further row of values is a call of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

from modelworks.agents.small import slots
from modelworks.agents.small.mentions import Mention
from modelworks.agents.small.options import kind_of, options
from modelworks.agents.small.rank import Ranked, Ranker, spoken
from modelworks.agents.small.texts import Option, Text
from modelworks.agents.small.words import stems, words
from modelworks.agents.tool import Tool

_CUT: Final = re.compile(
    r"(?<=[.?!;])\s+(?=[A-Z\"'\d])|\n+"
    r"|,?\s+(?:and\s+then|and\s+also|as\s+well\s+as|and|then|also|plus|while|additionally|followed\s+by)\s+"
    r"|,\s+(?=[a-z])"
)
_MOST_CALLS: Final = 16


@dataclass(frozen=True)
class Weights:
    """Fitted on the development cases of BFCL."""

    change: float = 0.12
    """What it costs to go on with another tool."""
    words: float = 0.5
    """What the share of a piece's words that a tool has counts, beside the cosine."""
    said: float = 1.0
    """What it counts that a piece has the tool's very name."""
    optional: float = 0.8
    """By how much less a value counts for a parameter that may be left out."""
    close: float = 0.35
    """Within what fit parameters are equally good for a value, so that the one with the fewest gets it."""
    alike: float = 1.1
    """By how much less a further value may fit than the first."""


@dataclass(frozen=True)
class Ask:
    """A call that is wanted: of which tool, by which part of the text, and what is decided of its arguments."""

    tool: Tool
    span: tuple[int, int]
    whole: tuple[int, int]
    """The part that this call shares with others of the same tool."""
    pinned: Mapping[str, Option] = field(default_factory=dict)


def plan(
    text: Text,
    ranked: Sequence[Ranked],
    ranker: Ranker,
    weights: Weights,
    choice: slots.Weights,
    judges: slots.Judges = slots.NO_JUDGES,
) -> list[Ask]:
    """The calls that a request wants, in its order; at least one."""
    asks = _by_tool(text, ranked, ranker, weights)
    return [row for ask in asks for row in _rows(ask, text, judges, weights, choice)][:_MOST_CALLS]


# --- parts ------------------------------------------------------------------------------------------------------------


def pieces(text: str) -> list[tuple[int, int]]:
    """The spans that a text is cut into; a piece that says nothing goes to the one before."""
    ends = [*(match.end() for match in _CUT.finditer(text)), len(text)]
    found: list[tuple[int, int]] = []
    start = 0
    for end in ends:
        if found and not stems(text[start:end]):
            found[-1] = (found[-1][0], end)
        elif start < end:
            found.append((start, end))
        start = end
    return found


def _by_tool(text: Text, ranked: Sequence[Ranked], ranker: Ranker, weights: Weights) -> list[Ask]:
    """The text by the tools that its pieces are like: the best path through all pieces."""
    tools = [each.tool for each in ranked]
    spans = pieces(text.text)
    paths: list[tuple[float, list[int]]] = [(-weights.change * (at > 0), []) for at in range(len(tools))]
    for span in spans:
        grown = []
        for at, tool in enumerate(tools):
            score, path = max((score - weights.change * bool(path and path[-1] != at), path) for score, path in paths)
            grown.append((score + _like(text.text[slice(*span)], tool, ranker, weights), [*path, at]))
        paths = grown
    _, path = max(paths, key=lambda each: each[0])
    asks: list[Ask] = []
    for span, at in zip(spans, path):
        if asks and asks[-1].tool is tools[at]:
            joined = (asks[-1].span[0], span[1])
            asks[-1] = Ask(tools[at], joined, joined)
        else:
            asks.append(Ask(tools[at], span, span))
    return asks


def _like(piece: str, tool: Tool, ranker: Ranker, weights: Weights) -> float:
    asked = set(stems(piece))
    overlap = len(asked & set(stems(spoken(tool)))) / max(1, len(asked))
    said = weights.said * (tool.name in piece)
    return min(1.0, len(asked) / 3) * (ranker.similarity(piece, tool) + weights.words * overlap) + said


def filled(text: Text, span: tuple[int, int], tool: Tool) -> float:
    """The share of a tool's required parameters that a part of the text has values for, each place used once."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required = [name for name in tool.parameters.get("required", ()) if name in properties]
    if not required:
        return 0.5
    used: list[Mention] = []
    count = 0.0
    for name in required:
        schema = properties[name]
        if kind_of(schema) in ("boolean", "object"):
            count += 0.3
            continue
        for option in options(name, schema, text, span):
            mention = option.mention
            if mention is None or option.is_gap or not _inside(mention, span):
                continue
            if option.fit < 0 or any(mention.overlaps(other) for other in used):
                continue
            used.append(mention)
            count += 0.4 if mention.kind == "phrase" and option.fit < 1 else 1.0
            break
    return count / len(required)


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows(ask: Ask, text: Text, judges: slots.Judges, weights: Weights, choice: slots.Weights) -> list[Ask]:
    """A call for each row of values; one call, with nothing decided, where there is one row."""
    columns = {name: dealt for name, dealt in _dealt(ask, text, weights, choice, judges).items() if len(dealt) > 1}
    if not columns:
        return [ask]
    longest = max(map(len, columns.values()))
    if len({len(column) for column in columns.values()}) > 1 and not re.search("respective", text.text):
        shorter = [name for name, column in columns.items() if len(column) < longest]
        if all(_is_listed(columns[name], text) for name in columns):
            rows = [dict(zip(columns, row)) for row in product(*columns.values())]
            return [Ask(ask.tool, ask.span, ask.span, row) for row in rows]
        columns = {name: column for name, column in columns.items() if name not in shorter}
    made = [{name: column[min(at, len(column) - 1)] for name, column in columns.items()} for at in range(longest)]
    starts = [min(option.mention.start for option in row.values() if option.mention) for row in made]
    if starts != sorted(starts) or "respective" in text.text:
        return [Ask(ask.tool, ask.span, ask.span, row) for row in made]
    bounds = [ask.span[0], *starts[1:], ask.span[1]]
    return [Ask(ask.tool, (low, high), ask.span, row) for row, low, high in zip(made, bounds, bounds[1:])]


def _dealt(
    ask: Ask, text: Text, weights: Weights, choice: slots.Weights, judges: slots.Judges
) -> dict[str, list[Option]]:
    """The values of one call, and with each of them those like it that the call has no use for."""
    properties: Mapping[str, Any] = ask.tool.parameters.get("properties", {})
    required = set(ask.tool.parameters.get("required", ()))
    open_slots = slots.slots(ask.tool, ask.span, ask.span, {}, [text], choice, judges)
    first = {
        slot.name: option
        for slot, option in zip(open_slots, slots.assigned(open_slots, choice))
        if option is not None and option.mention is not None
    }
    dealt = {
        name: [option]
        for name, option in first.items()
        if _can_vary(option.mention, properties[name], text)
        and (
            name in required
            or properties[name].get("enum")
            or option.mention is None
            or option.mention.kind != "phrase"
        )
    }
    further: dict[tuple[int, int], list[tuple[float, str, Option]]] = {}
    for name, column in dealt.items():
        wanted = slots.Parameter(name, properties[name], name in required)
        said = slots.verified(wanted, text, options(name, wanted.schema, text, ask.span), judges.evidence, choice)
        for option in said:
            mention = option.mention
            if (
                mention is None
                or option.is_gap
                or not _inside(mention, ask.span)
                or not _can_vary(mention, properties[name], text)
            ):
                continue
            if any(each.mention and each.mention.overlaps(mention) for each in first.values()):
                continue
            if option.text != column[0].text and _are_alike(column[0], option, text, weights):
                fit = option.fit - (0.0 if name in required else weights.optional)
                further.setdefault((mention.start, mention.end), []).append((fit, name, option))
    end = -1
    for place in sorted(further, key=lambda place: (place[0], -place[1])):
        if place[0] < end:
            continue
        best = max(fit for fit, _, _ in further[place])
        close = [(name, option) for fit, name, option in further[place] if fit > best - weights.close]
        name, option = min(close, key=lambda pair: len(dealt[pair[0]]))
        if option.text not in {each.text for each in dealt[name]}:
            dealt[name].append(option)
        end = place[1]
    return {name: sorted(column, key=_start) for name, column in dealt.items()}


def _start(option: Option) -> int:
    return option.mention.start if option.mention is not None else 0


def _inside(mention: Mention, span: tuple[int, int]) -> bool:
    return span[0] <= mention.start and mention.end <= span[1]


def _can_vary(mention: Mention | None, schema: Mapping[str, Any], text: Text) -> bool:
    """Whether a value can be one of several: of plain words only those that are listed, or an enum's."""
    if mention is None or mention.kind == "gap":
        return False
    if kind_of(schema) == "array":
        return mention.kind == "list" and text.text[mention.start] == "["
    return mention.kind != "phrase" or bool(schema.get("enum")) or _group(mention, text) is not None


def _group(mention: Mention, text: Text) -> tuple[Mention, ...] | None:
    """The list that a span is an item of, or part of one."""
    for group in text.groups:
        if any(item.start <= mention.start and mention.end <= item.end for item in group):
            return group
    return None


def _is_listed(column: Sequence[Option], text: Text) -> bool:
    groups = [_group(each.mention, text) for each in column if each.mention]
    return groups[0] is not None and all(group == groups[0] for group in groups)


def _are_alike(one: Option, other: Option, text: Text, weights: Weights) -> bool:
    """Whether two values can be the same parameter's in two calls: listed together, or said in the same way."""
    left, right = one.mention, other.mention
    assert left is not None
    assert right is not None
    group = _group(left, text)
    if group is not None and any(each.overlaps(right) for each in group):
        return True
    if left.kind != right.kind:
        return False
    is_number = left.kind == "number"
    if is_number and (left.unit or left.percent) and (left.unit, left.percent) == (right.unit, right.percent):
        return other.fit > one.fit - 2 * weights.alike
    if is_number and all(float(each.value).is_integer() and 1900 <= each.value < 2100 for each in (left, right)):
        return True
    marks = [text.text[max(0, each.start - 1) : each.start] for each in (left, right)]
    if is_number and marks[0] == marks[1] and marks[0] in ("$", "€", "£"):
        return other.fit > one.fit - 2 * weights.alike
    if left.kind == "name" and "," in str(left.value) and "," in str(right.value):
        return True
    return other.fit > one.fit - weights.alike * (1 + is_number) and bool(_frame(left, text) & _frame(right, text))


def _frame(mention: Mention, text: Text) -> set[tuple[str, str]]:
    """The words around a span that say what it is: the nearest before it, and those that are no mere articles."""
    light = ("and", "or", "the", "a", "an", "then", "also")
    before = [
        word for word in words(text.text[max(0, mention.start - 40) : mention.start]) if word.text.lower() not in light
    ]
    after = next(iter(words(text.text[mention.end : mention.end + 30])), None)
    found = {("before", word.stem) for at, word in enumerate(before[:-4:-1]) if at == 0 or not word.is_stop}
    return found | ({("after", after.stem)} if after is not None and not after.is_stop else set())
