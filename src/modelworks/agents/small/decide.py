"""Which of the tools a request is for, or `no_tool`, or `ask_user`: one choice, by points and the model's opinion.

`no_tool` has no points; a call that lacks a value can only be a question to the user.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from modelworks.agents.talk import ASK_USER, NO_TOOL


@dataclass(frozen=True, slots=True)
class Decision:
    """The name that was chosen, and by how many points it is ahead of the next best; None where there is no other."""

    name: str
    margin: float | None


def decide(
    points: Mapping[str, float],
    lacking: Collection[str],
    nats: Mapping[str, float],
    weight: float,
    *,
    required: bool = False,
) -> Decision:
    """The best name, by the `points` of tools (logarithms of odds) and `weight` for each nat of the model's opinion.

    A call of a tool that is `lacking` a value counts as `ask_user`, with the better opinion of the two. A name that
    `nats` has not is chosen by points alone. `required` leaves `no_tool` out. Raises ValueError without any tool.
    """
    totals = {name: value + weight * nats.get(name, 0.0) for name, value in points.items()}
    if asked := [points[name] + weight * _best(nats, name) for name in lacking if name in points]:
        totals = {name: value for name, value in totals.items() if name not in lacking} | {ASK_USER.name: max(asked)}
    if not totals:
        raise ValueError("there is no tool to choose")
    if not required:
        totals[NO_TOOL.name] = weight * nats.get(NO_TOOL.name, 0.0)
    first, *others = sorted(totals, key=lambda name: -totals[name])
    return Decision(first, totals[first] - totals[others[0]] if others else None)


def _best(nats: Mapping[str, float], name: str) -> float:
    return max((nats[each] for each in (name, ASK_USER.name) if each in nats), default=0.0)
