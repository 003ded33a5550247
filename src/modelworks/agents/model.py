"""What the loop needs of a model: messages and tools in, text and calls out; the local engine or an endpoint behind it.

Implementations: `local.LocalModel` over the engine, `endpoint.EndpointModel` over any OpenAI-compatible URL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from modelworks.agents.halt import Halt
from modelworks.agents.tool import Tool
from modelworks.core.errors import ModelworksError
from modelworks.text.tool_calls import ToolCall

Message: TypeAlias = Mapping[str, Any]
"""In OpenAI's form: `role`, `content`, and for calls `tool_calls` and `tool_call_id`; arguments are JSON text."""
Choice: TypeAlias = Literal["auto", "required", "none"]


class ModelError(ModelworksError):
    """A model cannot be reached, refuses a request, or answers with what is no reply."""


class Halted(ModelworksError):
    """The halt came while a model wrote."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said to some messages."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    """As it wrote them: a name that need not exist, and arguments that need not be JSON."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False
    """Whether the limit of tokens ended it."""
    margin: float | None = None
    """How sure the choice of the first call (or of none) was, in nats over the next best; None where not known."""


class ChatModel(Protocol):
    """A model that can be asked with tools. `reply` may be called from several threads at once."""

    @property
    def name(self) -> str: ...

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its reply may have together."""

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Tokens of a prompt, exactly or, where only the server knows, an estimate from above."""

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        """Answer, or call tools.

        Raises `ModelError`, `Halted` within a second of a halt, and what the engine raises.
        """


class Wrapper:
    """A `ChatModel` around another, which it is like in all but its `reply`: that is for a subclass to write."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def context_length(self) -> int:
        return self._model.context_length

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return self._model.count(messages, tools)
