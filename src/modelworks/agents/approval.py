"""Which calls may be made: always, never, or after somebody was asked; an approval is for the exact arguments.

A policy goes by a tool's effects, or by its name where that is given. An approval holds the digest of the tool's
definition and the arguments (`tool.call_digest`): a call that differs in anything is another call, and is asked about
anew. Where nobody can be asked, what has to be asked about is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from modelworks.agents.halt import Halt
from modelworks.agents.taint import Tainted
from modelworks.agents.tool import EFFECTS, Effect, Tool
from modelworks.core.errors import ConfigError

Rule: TypeAlias = Literal["always", "ask", "never"]
RULES: Final[tuple[Rule, ...]] = get_args(Rule)
ACTING: Final[frozenset[Effect]] = frozenset({"writes", "network", "money"})
"""What reaches beyond reading."""
_DOES: Final[Mapping[str, str]] = {"writes": "changes something", "network": "uses the network", "money": "costs money"}


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be done without asking, what is asked about, and what is never done.

    Raises `ConfigError` for a rule or an effect that there is none of.
    """

    tools: Mapping[str, Rule] = field(default_factory=dict)
    """By a tool's name; before the effects."""
    effects: Mapping[Effect, Rule] = field(
        default_factory=lambda: {"reads": "always", "writes": "ask", "network": "ask", "money": "ask"}
    )
    """By effect; a tool with several falls under the strictest. One that is not named here is asked about."""
    tainted: Rule = "ask"
    """For a call with effects beyond reading whose arguments come from what tools returned, at least this."""

    def __post_init__(self) -> None:
        for where, rule in (*self.tools.items(), *self.effects.items(), ("tainted", self.tainted)):
            if rule not in RULES:
                raise ConfigError(f"policy: {where} = {rule!r}; a rule is {', '.join(RULES)}")
        if unknown := set(self.effects) - set(EFFECTS):
            raise ConfigError(f"policy: no effect is called {min(unknown)!r}; there are {', '.join(EFFECTS)}")

    def rule(self, tool: Tool, tainted: bool = False) -> Rule:
        """What goes for a call."""
        if tool.name in self.tools:
            found = self.tools[tool.name]
        else:
            found = _strictest(self.effects.get(effect, "ask") for effect in tool.effects)
        return _strictest((found, self.tainted)) if tainted and tool.effects & ACTING else found


def _strictest(rules: Any) -> Rule:
    return max(rules, key=RULES.index, default="always")


@dataclass(frozen=True, slots=True)
class Request:
    """A call that somebody is asked about."""

    run: str
    call: str
    agent: str
    tool: Tool
    arguments: Mapping[str, Any]
    digest: str
    """Of the tool's definition and these arguments: what an approval is for."""
    why: str
    """One line: why it is asked about."""
    tainted: tuple[Tainted, ...] = ()
    halt: Halt = field(default_factory=Halt, compare=False)
    """Whoever waits for an answer stops waiting at the halt."""


def why_asked(tool: Tool, tainted: Sequence[Tainted]) -> str:
    """One line: what a call would do, and whose words stand in it."""
    acting = sorted(tool.effects & ACTING)
    what = f"{tool.name} {' and '.join(_DOES[effect] for effect in acting)}" if acting else f"{tool.name} is to be run"
    if not tainted or not acting:
        return what
    return f"{what}, and {_from(tainted)}"


def _from(tainted: Sequence[Tainted]) -> str:
    """What is tainted, and by whom; values that stand in what was read before those that only may derive from it."""
    found = [each for each in tainted if each.found]
    origins = ", ".join(sorted(frozenset[str]().union(*(each.origins for each in found or tainted))))
    paths = ", ".join(each.path for each in found or tainted)
    if found:
        return f"{paths} came from {origins}"
    return f"{paths} was written after reading {origins}" if paths else f"the call was chosen after reading {origins}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was said to a request. `digest` is the request's: it says what was seen when this was decided."""

    allow: bool
    digest: str
    reason: str = ""
    arguments: Mapping[str, Any] | None = None
    """Others in place of the request's, where whoever decided wants those; they are checked as the model's are."""
    by: str = ""


Approve: TypeAlias = Callable[[Request], Decision]


def allow(request: Request, *, arguments: Mapping[str, Any] | None = None, by: str = "") -> Decision:
    """Let a call be made as it is, or with other arguments."""
    return Decision(True, request.digest, arguments=arguments, by=by)


def deny(request: Request, reason: str = "", *, by: str = "") -> Decision:
    """Keep a call from being made; the model is told the reason."""
    return Decision(False, request.digest, reason, by=by)


class Desk:
    """Requests that wait for somebody elsewhere, such as a web page: `desk(request)` waits, `decide` ends the wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], tuple[Request, threading.Event, list[Decision]]] = {}

    def __call__(self, request: Request) -> Decision:
        key = (request.run, request.call)
        event, said = threading.Event(), list[Decision]()
        with self._lock:
            self._open[key] = (request, event, said)
        unhook = request.halt.on_set(event.set)
        try:
            event.wait()
        finally:
            unhook()
            with self._lock:
                del self._open[key]
        return said[0] if said else deny(request, "the run was halted")

    def open(self, run: str | None = None) -> list[Request]:
        """What waits, of one run or of all."""
        with self._lock:
            return [request for request, _, said in self._open.values() if not said and run in (None, request.run)]

    def decide(self, run: str, call: str, decision: Decision) -> bool:
        """Answer a request; False where none waits, or the one that does has another digest than was decided on."""
        with self._lock:
            found = self._open.get((run, call))
            if found is None or found[2] or found[0].digest != decision.digest:
                return False
            found[2].append(decision)
            found[1].set()
            return True
