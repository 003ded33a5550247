"""What happens in a run, as typed records: the loop yields them, the journal keeps them, the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Why: TypeAlias = Literal["halted", "steps", "tokens", "calls", "seconds", "cost", "repeated", "refused", "failed"]
"""What ended a run without an answer: somebody, a limit, the breaker on repeated calls, a refusal, or the model."""


@dataclass(frozen=True, slots=True)
class Thought:
    """What the model wrote beside its calls."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the model wants to be run, with arguments that satisfy its schema."""

    id: str
    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of a call, as the model gets to read it. Also of one that was malformed, refused or edited."""

    call: str
    """The call's id."""
    tool: str
    content: str
    error: bool = False
    seconds: float = 0.0
    origins: frozenset[str] = field(default_factory=frozenset)
    """Where the content comes from beside the tool itself: a file, a URL, a passage."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the model has to ask the user before it can go on; ends the run, which the reply goes on with."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The last step of a run that came to its end."""

    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The last step of a run that did not."""

    why: Why
    text: str
    """One line: what stopped it, and what can be done."""


Step: TypeAlias = Thought | Call | Observation | Question | Answer | Stop
End: TypeAlias = Question | Answer | Stop
"""What a run's last step is."""
