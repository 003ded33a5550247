"""A supervisor: an agent whose tools are agents in roles, and which must choose among them or finish.

    boss = supervisor(model, [role.agent(model, tools) for role in ROLES], policy=policy, approve=approve)
    for step in boss.run("Compare the two offers, and write a letter to the better one."):
        ...

It is an `Agent`: its policy, approver, journal, limits and halt hold for all its members (`Agent.as_tool`), a run can
be resumed and audited, and members whose tasks do not wait for each other can be called at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from modelworks.agents.arguments import ArgumentError, parsed
from modelworks.agents.halt import Halt
from modelworks.agents.loop import Agent
from modelworks.agents.model import ChatModel, Choice, Message, Reply
from modelworks.agents.planning.form import form
from modelworks.agents.team.roles import ROLES
from modelworks.agents.tool import Tool
from modelworks.core.errors import ConfigError

INSTRUCTIONS: Final = (
    "You lead a team and do no work yourself. Give one member after the other a task of its own, in words that say all "
    "it has to know: a member sees nothing but its task. Once their results answer the user, finish with the answer."
)
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


def supervisor(
    model: ChatModel,
    members: Sequence[Agent],
    *,
    descriptions: Mapping[str, str] | None = None,
    instructions: str = INSTRUCTIONS,
    **options: Any,
) -> Agent:
    """An agent that routes to `members`, by their names; `options` are `Agent`'s.

    `descriptions` says what a member that is in none of the `ROLES` can do. Raises `ConfigError` without members, for a
    member that nothing describes, and for two of one name.
    """
    told = {role.name: role.description for role in ROLES} | dict(descriptions or {})
    if not members:
        raise ConfigError("a supervisor needs at least one member")
    if undescribed := [member.name for member in members if member.name not in told]:
        raise ConfigError(f"member {undescribed[0]!r} is in no known role: say in `descriptions` what it can do")
    tools = [member.as_tool(member.name, told[member.name]) for member in members]
    return Agent(_Routing(model), tools, instructions=instructions, **{"name": "supervisor", **options})


class _Routing:
    """A model that can only call one of the tools or finish: under a grammar where it has one."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def context_length(self) -> int:
        return self._model.context_length

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return self._model.count(messages, [*tools, _FINISH])

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        reply = self._model.reply(messages, [*tools, _FINISH], choice="required", max_tokens=max_tokens, halt=halt)
        calls = tuple(call for call in reply.calls if call.name != _FINISH.name)
        if calls or not reply.calls:  # members first: an answer beside their tasks cannot know what they find
            return replace(reply, calls=calls)
        return replace(reply, text=_answer(reply.calls[0].arguments), calls=())


def _answer(arguments: str) -> str:
    """What a call to finish says; its text as it stands where that is no such call."""
    try:
        answer = parsed(arguments).get("answer")
    except ArgumentError:
        return arguments
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
