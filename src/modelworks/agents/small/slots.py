"""The parameters of a call, each with its options, and the best choice for all of them by code alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from modelworks.agents.small.evidence import Evidence
from modelworks.agents.small.mentions import Mention
from modelworks.agents.small.options import default_of, kind_of, options
from modelworks.agents.small.texts import Option, Text
from modelworks.agents.small.words import parts, stems
from modelworks.agents.tool import Tool

Likeness: TypeAlias = Callable[[str, Sequence[str]], Sequence[float]]
"""How much each of some texts is like another, by their vectors: about 0 where it is not, towards 1 where it is."""


@dataclass(frozen=True)
class Judges:
    """What tells, beside code, whether a value is a parameter's: what it means, and what a reader makes of the text."""

    likeness: Likeness | None = None
    evidence: Evidence | None = None


NO_JUDGES: Final = Judges()
_BEAM: Final = 12
_USUAL: Final = 0.2  # the likeness of a word and a parameter that have nothing to do with each other
_MOST_OPTIONS: Final = 10
_MARKED: Final = ("quoted", "id")


@dataclass(frozen=True)
class Weights:
    """Fitted on the development cases of BFCL."""

    logprob: float = 0.2
    """What a nat of the model counts, beside the fit's own points."""
    overruled: float = 8.0
    """By how many nats at most: what the model finds impossible may be right all the same."""
    meant: float = 0.5
    """What it counts that a text means what the parameter's name and description do, from 0 to 1."""
    hopeless: float = 1.6
    """By how much less a value may fit than the best for the model to be asked of it: so much can its opinion weigh."""
    read: float = 0.1
    """What a logit of the reader counts in the choice among options."""
    verified: float = 0.8
    """The same, where it is decided whether a value is one at all."""
    sure: float = -5.0
    """What the sum of fit and reading needs for that; with more, more is asked for, and more of it in vain."""
    reused: float = 20.0
    """What it costs to take a place of the text twice: so much that a required parameter is rather asked for."""
    turned: float = 0.3
    """What it costs to stand before the value of the parameter before, of the same kind."""
    optional: float = 0.8
    """The fit that a value needs for a parameter that may be left out."""
    worded: float = 0.8
    """By how much more, where it is plain words that no enum has."""
    tools: float = 1.0
    """What it costs plain words to be all the tool's own: "restaurant" of a restaurant finder."""
    required: float = -1.0
    """The fit that a value needs for one that may not."""
    required_words: float = 0.5
    """The same, of plain words that no enum has, where vectors tell what they mean: with less they are any words."""
    answer: float = 0.2
    """By how much less for each logit that they are the reader's answer."""


@dataclass(frozen=True)
class Slot:
    """A parameter and what it may be."""

    name: str
    schema: Mapping[str, Any]
    options: tuple[Option, ...]
    scores: tuple[float, ...]
    """Of the options, and last of leaving it out."""


def slots(
    tool: Tool,
    span: tuple[int, int],
    whole: tuple[int, int],
    pinned: Mapping[str, Option],
    texts: Sequence[Text],
    weights: Weights,
    judges: Judges = NO_JUDGES,
) -> list[Slot]:
    """The parameters of a call, but for those that are objects, by a part of the first text and by further texts.

    What stands outside of `span` counts less, and outside of `whole` much less.
    """
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required = set(tool.parameters.get("required", ()))
    own = frozenset(stems(" ".join([tool.name, tool.description, *properties])))
    return [
        _pinned(name, schema, pinned[name])
        if name in pinned
        else _slot(Parameter(name, schema, name in required), (span, whole), texts, weights, judges, tool.name, own)
        for name, schema in properties.items()
        if kind_of(schema) != "object"
    ]


def _pinned(name: str, schema: Mapping[str, Any], option: Option) -> Slot:
    return Slot(name, schema, (option,), (10.0, -10.0))


@dataclass(frozen=True)
class Parameter:
    """What is wanted of a text."""

    name: str
    schema: Mapping[str, Any]
    required: bool

    @property
    def kind(self) -> str:
        return kind_of(self.schema)

    @property
    def is_free(self) -> bool:
        """Whether it may be any text or any number."""
        return self.kind in ("string", "integer", "number") and not self.schema.get("enum")


def _slot(
    wanted: Parameter,
    places: tuple[tuple[int, int], tuple[int, int]],
    texts: Sequence[Text],
    weights: Weights,
    judges: Judges,
    tool: str,
    own: frozenset[str],
) -> Slot:
    found = [
        replace(each, fit=each.fit - weights.tools)
        if _is_worded(each) and own.issuperset(stems(str(each.value)))
        else each
        for each in options(wanted.name, wanted.schema, texts[0], *places)
        if each.value != tool
    ]
    found = verified(wanted, texts[0], found, judges.evidence, weights)
    for text in texts[1:]:
        further = options(wanted.name, wanted.schema, text)
        further = [each for each in further if (each.fit > 0 or wanted.required) and not each.is_gap]
        further = verified(wanted, text, further, judges.evidence, weights)
        found += [replace(each, fit=each.fit - 0.5, mention=None) for each in further]  # places are the first text's
    if judges.likeness is not None and wanted.kind == "string" and wanted.is_free:
        found = _meant(wanted, found, weights, judges.likeness)
    is_judged = judges.likeness is not None
    found = [each for each in found if each.fit >= _least(each, weights, wanted.required, is_judged)]
    found = sorted(found, key=lambda each: -_score(each, weights))
    if wanted.required and (default := default_of(wanted.schema)) is not None and wanted.kind != "array":
        found.append(Option(default, "default", 0.0))
    found = found[:_MOST_OPTIONS]
    left_out = -8.0 if wanted.required else weights.optional
    return Slot(wanted.name, wanted.schema, tuple(found), (*(_score(each, weights) for each in found), left_out))


def _score(option: Option, weights: Weights) -> float:
    return option.fit + weights.read * option.margin


def _is_worded(option: Option) -> bool:
    """Whether a value is plain words of the text, and nothing that is marked as one."""
    return option.source == "query" and option.mention is not None and option.mention.kind == "phrase"


def _least(option: Option, weights: Weights, required: bool, is_judged: bool) -> float:
    if required:
        is_words = is_judged and _is_worded(option) and isinstance(option.value, str)
        return weights.required_words - weights.answer * max(0.0, option.margin) if is_words else weights.required
    return weights.optional + weights.worded * (_is_worded(option) and isinstance(option.value, str))


def verified(
    wanted: Parameter, text: Text, found: Sequence[Option], evidence: Evidence | None, weights: Weights
) -> list[Option]:
    """The options that may be the value, each with the reader's margin.

    A parameter that is needed is not guessed: of several values that it may have, one has to be said. What the user
    marked as a value, in quotation marks or as an identifier such as a file's name, is not ruled out by the reader.
    """
    if wanted.required and len(wanted.schema.get("enum", ())) != 1:
        found = [each for each in found if each.mention is not None]
    if evidence is None or not wanted.is_free or not found:
        return list(found)
    margins = evidence.margins(wanted.name, wanted.schema, text)
    made = []
    for each in found:
        margin = margins.get((each.mention.start, each.mention.end)) if each.mention is not None else None
        if each.mention is None or each.is_gap or margin is None:
            made.append(each)
        elif each.mention.kind in _MARKED or each.fit + weights.verified * margin >= weights.sure:
            made.append(replace(each, margin=margin))
    return made


def _meant(wanted: Parameter, found: Sequence[Option], weights: Weights, likeness: Likeness) -> list[Option]:
    """The options, those the fitter that mean what the parameter does: "tennis" of a sport."""
    said = f"{' '.join(parts(wanted.name))}: {wanted.schema.get('description', '')}"
    near = likeness(said, [str(each.value) for each in found])
    return [
        each if each.is_gap else replace(each, fit=each.fit + weights.meant * (value - _USUAL))
        for each, value in zip(found, near)
    ]


def assigned(found: Sequence[Slot], weights: Weights) -> list[Option | None]:
    """The best choice of an option, or of none, for each parameter: a beam, since a place is dear to take twice."""
    beam: list[tuple[float, list[Option | None]]] = [(0.0, [])]
    for slot in found:
        grown = []
        for total, chosen in beam:
            grown.append((total + slot.scores[-1], [*chosen, None]))
            for option, score in zip(slot.options, slot.scores):
                cost = weights.reused * _taken(option.mention, chosen) + weights.turned * _turns_back(option, chosen)
                grown.append((total + score - cost, [*chosen, option]))
        beam = sorted(grown, key=lambda each: -each[0])[:_BEAM]
    return beam[0][1]


def _taken(mention: Mention | None, chosen: Sequence[Option | None]) -> bool:
    return mention is not None and any(
        each is not None and each.mention is not None and each.mention.overlaps(mention) for each in chosen
    )


def _turns_back(option: Option, chosen: Sequence[Option | None]) -> bool:
    before = next((each for each in reversed(chosen) if each is not None), None)
    if before is None or before.mention is None or option.mention is None:
        return False
    return before.mention.kind == option.mention.kind and option.mention.start < before.mention.start
