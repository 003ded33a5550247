"""Deciding at each step: a model that must call a tool or say that it is done, and cannot drift into talk.

A small model that may also write plain words seldom calls at all. Held to a choice, it acts; and done is a choice, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from modelworks.agents.arguments import ArgumentError, parsed
from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Choice, Message, Reply, Wrapper
from modelworks.agents.planning.form import form
from modelworks.agents.tool import Tool

_FINISH: Final = form(
    "finish",
    "Give the user the answer and end the work.",
    {
        "type": "object",
        "properties": {"answer": {"type": "string", "minLength": 1}},
        "required": ["answer"],
        "additionalProperties": False,
    },
)


class Finishing(Wrapper):
    """A `ChatModel` that can only call the tools or `finish`, which gives the answer: under a grammar where it has one.

    Until `least` calls have brought something it cannot finish: what finishes at once has looked at nothing. Without
    tools it is asked as it is.
    """

    def __init__(self, model: ChatModel, *, least: int = 0) -> None:
        super().__init__(model)
        self._least = least

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return self._model.count(messages, self._offered(messages, tools))

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        if not tools or choice == "none":
            return self._model.reply(messages, choice=choice, max_tokens=max_tokens, halt=halt)
        offered = self._offered(messages, tools)
        reply = self._model.reply(messages, offered, choice="required", max_tokens=max_tokens, halt=halt)
        if reply.cut and not reply.calls:
            return replace(reply, text="")  # half a call is no answer
        calls = tuple(call for call in reply.calls if call.name != _FINISH.name)
        if calls or not reply.calls:  # an answer beside calls cannot know what they bring
            return replace(reply, calls=calls)
        return replace(reply, text=_answer(reply.calls[0].arguments), calls=())

    def _offered(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Tool]:
        asked = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=-1)
        brought = sum(message["role"] == "tool" for message in messages[asked + 1 :])
        return [*tools, _FINISH] if tools and brought >= self._least else list(tools)


def _answer(arguments: str) -> str:
    """What a call to finish says; its text as it stands where that is no such call."""
    try:
        answer = parsed(arguments).get("answer")
    except ArgumentError:
        return arguments
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
