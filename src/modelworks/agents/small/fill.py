"""Arguments of a call: each value one of few options, by how its place fits and how likely the model finds it.

The model never writes a value of its own: it scores what code offers. A required parameter that nothing fits is
missing, for the user to be asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from modelworks.agents.small.options import kind_of
from modelworks.agents.small.plan import Ask
from modelworks.agents.small.slots import NO_JUDGES, Judges, Slot, Weights, assigned, slots
from modelworks.agents.small.texts import Option, Text

_MOST_SCORED: Final = 8
Score: TypeAlias = Callable[[str, Sequence[str]], list[float]]
"""A prefix and what may follow it to log-probabilities, as `score.Scorer.logprobs`."""


@dataclass(frozen=True)
class Filled:
    """The arguments of a call, where each is from, and the required ones that are nowhere."""

    arguments: Mapping[str, Any]
    sources: Mapping[str, Option]
    missing: tuple[str, ...] = ()


def fill(
    ask: Ask,
    texts: Sequence[Text],
    weights: Weights,
    judges: Judges = NO_JUDGES,
    score: Score | None = None,
    head: str = "",
) -> Filled:
    """Choose the arguments of a call from the first text, which it is about, and further ones, such as observations.

    With `score` the model's opinion counts; `head` is what it has written so far, up to the arguments' brace.
    """
    properties: Mapping[str, Any] = ask.tool.parameters.get("properties", {})
    required = set(ask.tool.parameters.get("required", ()))
    open_slots = slots(ask.tool, ask.span, ask.whole, ask.pinned, texts, weights, judges)
    chosen = assigned(open_slots, weights)
    if score is not None:
        open_slots = _scored(open_slots, chosen, weights, score, head)
        chosen = assigned(open_slots, weights)
    found = {slot.name: option for slot, option in zip(open_slots, chosen) if option is not None and not option.is_gap}
    for name, schema in properties.items():
        if kind_of(schema) == "object" and (inner := _object(schema, ask, texts, weights, judges, name in required)):
            found[name] = inner
    ordered = {name: found[name] for name in properties if name in found}
    return Filled(
        {name: option.value for name, option in ordered.items()},
        ordered,
        tuple(name for name in properties if name in required and name not in found),
    )


def _scored(
    open_slots: Sequence[Slot], chosen: Sequence[Option | None], weights: Weights, score: Score, head: str
) -> list[Slot]:
    """The slots with the model's opinion, asked at each parameter after the code's own choice of those before it."""
    made, written = [], head + "{"
    for at, (slot, choice) in enumerate(zip(open_slots, chosen)):
        key = f"{'' if written.endswith('{') else ', '}{json.dumps(slot.name)}: "
        least = max(slot.scores[:-1], default=0.0) - weights.hopeless
        close = [option for option, own in zip(slot.options, slot.scores) if own >= least and not option.is_gap][
            :_MOST_SCORED
        ]
        if len(close) > 1 and not (choice is not None and choice.is_gap):
            end = "," if any(each is not None for each in chosen[at + 1 :]) else "}"
            texts = [option.text + (end if option.text[-1:] not in '"]' else "") for option in close]
            nats = score(written + key, texts)
            own = [slot.scores[slot.options.index(option)] for option in close]
            said = [max(nat - max(nats), -weights.overruled) for nat in nats]
            scores = [points + weights.logprob * nat for points, nat in zip(own, said)]
            slot = replace(slot, options=tuple(close), scores=(*scores, slot.scores[-1]))
        made.append(slot)
        if choice is not None and not choice.is_gap:
            written += key + choice.text
    return made


def _object(
    schema: Mapping[str, Any],
    ask: Ask,
    texts: Sequence[Text],
    weights: Weights,
    judges: Judges,
    required: bool,
) -> Option | None:
    """An object of values found for its own properties; None where none are."""
    inner = replace(ask, tool=replace(ask.tool, parameters={"type": "object", **schema}), pinned={})
    made = fill(inner, texts, weights, judges)
    if not made.arguments or (made.missing and not required):
        return None
    found = list(made.sources.values())
    return Option(dict(made.arguments), found[0].source, sum(each.fit for each in found) / len(found))
