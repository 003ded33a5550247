"""What a run may use, what it has used, and the breaker on calls that are made again and again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelworks.agents.steps import Stop
from modelworks.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one run, those of its sub-agents included. Raises `ConfigError` for numbers that cannot work."""

    steps: int = 12
    """Replies of the model."""
    tokens: int = 100_000
    """Of prompts and replies together."""
    calls: int = 32
    """Of tools, in all."""
    calls_per_tool: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 600.0
    cost: float | None = None
    """In the currency of the prices below; None is no limit."""
    prompt_price: float = 0.0
    """Of a million tokens that are read."""
    completion_price: float = 0.0
    """Of a million tokens that are written."""
    repeats: int = 3
    """From how many identical calls on a call is not carried out; one more ends the run."""
    parallel: int = 4
    """Calls that run at the same time."""
    reply_tokens: int = 512
    """Of one reply."""

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "calls", "seconds", "parallel", "reply_tokens"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"limits.{name} is {getattr(self, name)}, expected a number above 0")
        if self.repeats < 2:
            raise ConfigError(f"limits.repeats is {self.repeats}, expected at least 2")
        for tool, most in self.calls_per_tool.items():
            if most < 0:
                raise ConfigError(f"limits.calls_per_tool.{tool} is {most}, expected 0 or more")
        if self.cost is not None and not self.prompt_price + self.completion_price > 0:
            raise ConfigError("limits.cost is set, but not what tokens cost: set prompt_price and completion_price")


@dataclass(slots=True)
class Usage:
    """What a run has used so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def cost(self, limits: Limits) -> float:
        """By the prices of some limits."""
        paid = self.prompt_tokens * limits.prompt_price + self.completion_tokens * limits.completion_price
        return paid / 1e6


class Meter:
    """Counts against limits. A sub-agent's meter counts against its parent's, too. Safe to use from several threads."""

    def __init__(self, limits: Limits, parent: Meter | None = None) -> None:
        self.limits, self._parent = limits, parent
        self.usage = Usage()
        self._begun = time.monotonic()
        self._used: Counter[str] = Counter()  # calls of each tool
        self._lock = threading.Lock()

    @property
    def seconds_left(self) -> float:
        left = self.limits.seconds - (time.monotonic() - self._begun)
        return left if self._parent is None else min(left, self._parent.seconds_left)

    def replied(self, prompt_tokens: int, completion_tokens: int, *, counts: bool = True) -> None:
        """Count a reply of the model; not as one of its steps where it is a sub-agent's."""
        with self._lock:
            self.usage.prompt_tokens += prompt_tokens
            self.usage.completion_tokens += completion_tokens
            self.usage.model_calls += counts
            self.usage.seconds = time.monotonic() - self._begun
        if self._parent is not None:
            self._parent.replied(prompt_tokens, completion_tokens, counts=False)

    def stop(self) -> Stop | None:
        """Why the model may not be asked again, or None where it may."""
        limits, usage = self.limits, self.usage
        usage.seconds = time.monotonic() - self._begun
        if usage.model_calls >= limits.steps:
            return Stop("steps", f"{limits.steps} steps did not bring an answer (limits.steps)")
        if usage.tokens >= limits.tokens:
            return Stop("tokens", f"{usage.tokens} tokens used, of {limits.tokens} (limits.tokens)")
        if limits.cost is not None and usage.cost(limits) >= limits.cost:
            return Stop("cost", f"{usage.cost(limits):.4g} spent, of {limits.cost:g} (limits.cost)")
        if self.seconds_left <= 0:
            return Stop("seconds", f"{limits.seconds:g} seconds are over (limits.seconds)")
        return None if self._parent is None else self._parent.stop()

    def admit(self, tool: str) -> str | None:
        """Take one call of a tool from what is left, before it runs; else why not, in words for the model.

        Calls that run together are admitted one by one, so that a batch cannot go beyond a cap.
        """
        limits = self.limits
        with self._lock:
            most = limits.calls_per_tool.get(tool)
            if most is not None and self._used[tool] >= most:
                return f"not run: {tool} may be called {most} times in a run, and was"
            if self.usage.tool_calls >= limits.calls:
                return f"not run: a run may make {limits.calls} calls, and did; answer with what is known"
            if self._parent is not None and (refused := self._parent.admit(tool)) is not None:
                return refused
            self._used[tool] += 1
            self.usage.tool_calls += 1
        return None
