"""Handing on: an agent gives the dialogue to another, whose answer then is the answer.

    first = relay([triage, billing, technician], {"billing": "Invoices and payments", ...})
    first.ask("My invoice is wrong.")

A handover is a tool of the agent that makes it, so that policy, approver, journal, limits and halt of the first agent
hold for all, and a run can be resumed and audited like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from modelworks.agents.halt import Halt
from modelworks.agents.loop import Agent
from modelworks.agents.model import Choice, Message, Reply, Wrapper
from modelworks.agents.run import current
from modelworks.agents.steps import Answer
from modelworks.agents.tool import Result, Tool
from modelworks.core.errors import ConfigError, ModelworksError

_PREFIX: Final = "hand_to_"
_LABEL: Final = "handed_"
"""Begins the part of a run's id that a handover adds, so that handovers can be told from other sub-agents."""
_ANSWERED: Final = "Answered in your place: "
"""Before an answer that came back, so that a refusal or a failure is not taken for one."""
_SAID: Final[Mapping[str, str]] = {"user": "User", "assistant": "Assistant", "tool": "Result"}


class HandoffError(ModelworksError):
    """Whom a dialogue was handed to did not answer, or it was handed on too often."""


def relay(agents: Sequence[Agent], descriptions: Mapping[str, str], *, most: int = 4) -> Agent:
    """The first of some agents, all of which can hand on to each other, `most` times in a run.

    `descriptions` says by an agent's name what is handed to it; who is not named there gets nothing. The agents given
    stay as they are. Raises `ConfigError` for fewer than two agents, two of one name, and a name that none has.
    """
    names = [agent.name for agent in agents]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"a relay needs at least two agents, each of a name of its own; these are {', '.join(names)}")
    if unknown := descriptions.keys() - set(names):
        raise ConfigError(f"no agent is called {min(unknown)!r}; there are {', '.join(names)}")
    linked = [_copy(agent) for agent in agents]
    for agent in linked:
        agent.tools += [
            _handover(other, descriptions[other.name], most)
            for other in linked
            if other is not agent and other.name in descriptions
        ]
    return linked[0]


def _copy(agent: Agent) -> Agent:
    return Agent(
        _Relayed(agent.model),
        agent.tools,
        instructions=agent.instructions,
        policy=agent.policy,
        approve=agent.approve,
        journal=agent.journal,
        limits=agent.limits,
        memory=agent.memory,
        name=agent.name,
    )


def _handover(to: Agent, description: str, most: int) -> Tool:
    def hand(reason: str) -> Result:
        run, call = current()
        if run.id.count(f".{_LABEL}") >= most:
            raise HandoffError(f"the dialogue was handed on {most} times already; answer with what is known")
        sub = to.under(run, _told(run.messages(), reason), f"{_LABEL}{call}")
        for _ in sub:
            pass
        if not isinstance(sub.end, Answer):
            raise HandoffError(f"{to.name} did not answer: {sub.end.text if sub.end else 'it was left'}")
        return Result(_ANSWERED + sub.end.text, sub.origins)

    return Tool(
        name=f"{_PREFIX}{to.name}",
        description=f"Hand the whole dialogue on to {to.name}, who answers in your place. {description}",
        parameters={
            "type": "object",
            "properties": {"reason": {"type": "string", "description": "Why, and what is to be done."}},
            "required": ["reason"],
            "additionalProperties": False,
        },
        run=hand,
        effects=frozenset(),
        isolated=False,
        timeout=float("inf"),
        resumes=True,
    )


def _told(messages: Sequence[Mapping[str, Any]], reason: str) -> str:
    """The dialogue as the next agent gets to read it: what was said and found, without instructions and calls."""
    said = [
        f"{_SAID[message['role']]}: {message['content']}"
        for message in messages
        if message["role"] in _SAID and message.get("content")
    ]
    return "\n\n".join([*said, f"Handed on to you: {reason}"])


class _Relayed(Wrapper):
    """A model that is not asked again once it has handed on: what came back is its answer."""

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        last = messages[-1]
        if last["role"] == "tool" and last["name"].startswith(_PREFIX) and last["content"].startswith(_ANSWERED):
            return Reply(last["content"].removeprefix(_ANSWERED))
        return self._model.reply(messages, tools, choice=choice, max_tokens=max_tokens, halt=halt)
