"""Plans: steps that need each other's results, and so form a graph without cycles; and a model that writes one.

A model writes its plan as the arguments of a function whose schema allows a step to need earlier steps only, so that
under a grammar it cannot write a cycle or a reference to nothing. A plan from elsewhere is checked, by name.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from types import MappingProxyType
from typing import Any, Final

from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Message
from modelworks.agents.planning.form import fill, form
from modelworks.core.errors import ModelworksError

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_SHOWN: Final = 1000
"""Characters of a result that a model which plans anew gets to read."""
_INSTRUCTION: Final = (
    "Write a plan: few steps, each a task of its own for a helper who sees nothing but that task and the results of "
    "the steps that it needs. Steps that do not need each other run at the same time. The last step gives the answer."
)


class PlanError(ModelworksError):
    """A plan's steps need what is not there, or each other in a circle."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    id: str
    task: str
    needs: tuple[str, ...] = ()
    """The ids of the steps whose results it gets."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps, in any order. Raises `PlanError`, naming the steps, for what cannot be carried out."""

    steps: tuple[PlanStep, ...]
    given: frozenset[str] = frozenset()
    """Ids of results that are there already, as after a plan that failed; steps may need them."""

    def __post_init__(self) -> None:
        if not self.steps:
            raise PlanError("the plan has no steps")
        often = Counter(step.id for step in self.steps)
        for step in self.steps:
            if not step.id or not step.task.strip():
                raise PlanError(f"step {step.id!r} has no {'task' if step.id else 'id'}")
            if often[step.id] > 1 or step.id in self.given:
                raise PlanError(f"step {step.id!r} is there already")
            for need in step.needs:
                if need not in often and need not in self.given:
                    raise PlanError(f"step {step.id!r} needs {need!r}, which is no step of the plan")
        self.graph()

    def graph(self) -> graphlib.TopologicalSorter[str]:
        """The steps' ids, to be taken as `graphlib` gives them out."""
        graph = graphlib.TopologicalSorter({step.id: set(step.needs) - self.given for step in self.steps})
        try:
            graph.prepare()
        except graphlib.CycleError as error:
            # Each id there needs the one before it.
            raise PlanError(f"steps need each other in a circle: {' needs '.join(reversed(error.args[1]))}") from error
        return graph

    def step(self, id: str) -> PlanStep:
        """The step of that id; raises KeyError where there is none."""
        for step in self.steps:
            if step.id == id:
                return step
        raise KeyError(id)


def read_plan(value: Mapping[str, Any], given: frozenset[str] = frozenset()) -> Plan:
    """A plan from JSON: `{"steps": [{"id": ..., "task": ..., "needs": [...]}, ...]}`. Raises `PlanError` for none."""
    try:
        steps = [
            PlanStep(str(row["id"]), str(row["task"]), tuple(map(str, row.get("needs") or ())))
            for row in value["steps"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise PlanError('a plan is {"steps": [{"id": ..., "task": ..., "needs": [...]}]}') from error
    return Plan(tuple(steps), given)


def write_plan(
    model: ChatModel,
    task: str,
    *,
    done: Mapping[str, str] = _NOTHING,
    taken: Collection[str] = (),
    failure: str = "",
    most: int = 6,
    tries: int = 3,
    max_tokens: int = 512,
    halt: Halt | None = None,
) -> Plan:
    """A plan of at most `most` steps that a model writes for a task.

    To plan anew, give the results that are there, by the ids of their steps, what went wrong, and the ids that are
    `taken` by steps without a result. Raises `ModelError` where no try is a plan, and what `ChatModel.reply` raises.
    """
    ids = list(islice((f"s{at}" for at in count(1) if f"s{at}" not in done and f"s{at}" not in taken), most))
    parameters = {
        "type": "object",
        "properties": {"steps": _steps_schema(ids, list(done))},
        "required": ["steps"],
        "additionalProperties": False,
    }
    asked = form("plan", "State the steps of the plan, each after those that it needs.", parameters)
    return fill(
        model,
        _messages(task, done, failure),
        asked,
        lambda arguments: read_plan(arguments, frozenset(done)),
        tries=tries,
        max_tokens=max_tokens,
        halt=halt,
    )


def _steps_schema(ids: Sequence[str], done: Sequence[str]) -> dict[str, Any]:
    """Each step has its own id, and can need only those before it and what is done."""
    items = []
    for at, id in enumerate(ids):
        known = [*done, *ids[:at]]
        needs: dict[str, Any] = {"type": "array", "items": {"enum": known}, "maxItems": len(known)}
        properties = {
            "id": {"const": id},
            "task": {"type": "string", "minLength": 1},
            "needs": needs if known else {"type": "array", "maxItems": 0},
        }
        items.append(
            {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
        )
    return {"type": "array", "prefixItems": items, "items": False, "minItems": 1, "maxItems": len(items)}


def _messages(task: str, done: Mapping[str, str], failure: str) -> list[Message]:
    parts = [f"Task: {task}"]
    parts += [f"Result of {id}: {text[:_SHOWN]}" for id, text in done.items()]
    if failure:
        parts.append(f"An earlier plan failed: {failure}\nPlan what is left to do, another way.")
    return [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": "\n\n".join(parts)}]
