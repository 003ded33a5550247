"""A form that a model fills in: one call of one function that it must call, with arguments that satisfy a schema.

It is how a plan, a route or a verdict is asked for: under a grammar where the model is local, checked in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from modelworks.agents.arguments import ArgumentError, checked, parsed
from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Message, ModelError
from modelworks.agents.tool import Tool
from modelworks.core.errors import ModelworksError

Made = TypeVar("Made")


def form(name: str, description: str, parameters: Mapping[str, Any]) -> Tool:
    """A function to be called for its arguments alone; nothing runs."""
    return Tool(name, description, parameters, run=dict, effects=frozenset(), isolated=False)


def fill(
    model: ChatModel,
    messages: Sequence[Message],
    asked: Tool,
    make: Callable[[dict[str, Any]], Made],
    *,
    tries: int = 3,
    max_tokens: int = 512,
    halt: Halt | None = None,
) -> Made:
    """What `make` makes of the arguments that the model gives; it is told what is wrong with them, up to `tries` times.

    `make` raises a `ModelworksError` for arguments that will not do. Raises `ModelError` where the last try fails, and
    what `ChatModel.reply` raises.
    """
    said = list(messages)
    wrong = ""
    for _ in range(tries):
        reply = model.reply(said, [asked], choice="required", max_tokens=max_tokens, halt=halt)
        try:
            if not reply.calls or reply.calls[0].name != asked.name:
                raise ArgumentError(f"there is no call of {asked.name!r}")
            return make(checked(asked.parameters, parsed(reply.calls[0].arguments)))
        except ModelworksError as error:
            wrong = f"{error}; the reply was cut at {max_tokens} tokens" if reply.cut else str(error)
        written = "\n".join([reply.text, *(f"{call.name} {call.arguments}" for call in reply.calls)]).strip()
        said = [
            *messages,
            {"role": "assistant", "content": written},
            {"role": "user", "content": f"That will not do: {wrong}. Call {asked.name} again."},
        ]
    raise ModelError(f"{model.name} did not fill in {asked.name!r} in {tries} tries: {wrong}")
