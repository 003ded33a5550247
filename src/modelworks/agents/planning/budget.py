"""What a way of planning may spend of a model, counted where the model is asked, so that nothing escapes the count.

budget = Budget(calls=100)
model = Budgeted(model, budget)      # a ChatModel, for whatever asks one
budget.spent                        # Spent(calls=..., prompt_tokens=..., completion_tokens=...)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Choice, Message, Reply, Wrapper
from modelworks.agents.tool import Tool
from modelworks.core.errors import ConfigError, ModelworksError


class SpentError(ModelworksError):
    """A budget does not pay for another call."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls of a model and their tokens. A prompt counts each time that it is read, cached or not."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


class Budget:
    """At most so many calls and so many tokens, together; None is no limit. Several threads and models may share one.

    Raises `ConfigError` for a limit below 0.
    """

    def __init__(self, *, calls: int | None = None, tokens: int | None = None) -> None:
        for name, limit in (("calls", calls), ("tokens", tokens)):
            if limit is not None and limit < 0:
                raise ConfigError(f"budget: {name} is {limit}, expected at least 0, or None for no limit")
        self._calls, self._tokens = calls, tokens
        self._spent = Spent()
        self._reserved = 0  # tokens that calls under way may still cost
        self._changed = threading.Condition()

    @property
    def spent(self) -> Spent:
        return self._spent

    def take(self, calls: int = 1) -> None:
        """Count calls that are made otherwise than through `Budgeted`. Raises `SpentError` where they are too many."""
        with self._changed:
            self._take(calls)

    def _take(self, calls: int) -> None:
        if self._calls is not None and self._spent.calls + calls > self._calls:
            raise SpentError(f"{self._spent.calls} of {self._calls} calls are spent, and {calls} more are asked for")
        self._spent += Spent(calls)

    def asked(self, prompt: int, most: int, ask: Callable[[int], Reply]) -> Reply:
        """One call whose prompt has `prompt` tokens and whose answer may have `most`, or as many as are left.

        A call that might not fit beside those under way waits for them, so that tokens are never spent twice. Raises
        `SpentError` where not even one token of an answer is left, and what `ask` raises.
        """
        with self._changed:
            if self._tokens is not None:
                while self._left() < prompt + most and self._reserved:
                    self._changed.wait()
                most = min(most, self._left() - prompt)
                if most < 1:
                    raise SpentError(f"{self._spent.tokens} of {self._tokens} tokens are spent; a call needs {prompt}")
            self._take(1)
            self._reserved += prompt + most
        used = Spent()
        try:
            reply = ask(most)
            used = Spent(0, reply.prompt_tokens or prompt, reply.completion_tokens)
        finally:
            with self._changed:
                self._reserved -= prompt + most
                self._spent += used
                self._changed.notify_all()
        return reply

    def _left(self) -> int:
        assert self._tokens is not None
        return self._tokens - self._spent.tokens - self._reserved


class Budgeted(Wrapper):
    """A `ChatModel` that counts what it is asked, and raises `SpentError` where the budget does not pay for it.

    The last answer that a budget of tokens pays for may be cut short.
    """

    def __init__(self, model: ChatModel, budget: Budget) -> None:
        super().__init__(model)
        self.budget = budget

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        return self.budget.asked(
            self._model.count(messages, tools),
            max_tokens,
            lambda most: self._model.reply(messages, tools, choice=choice, max_tokens=most, halt=halt),
        )
