"""A supervisor: an agent whose tools are agents in roles, and which must choose among them or finish.

    boss = supervisor(model, [role.agent(model, tools) for role in ROLES], policy=policy, approve=approve)
    for step in boss.run("Compare the two offers, and write a letter to the better one."):
        ...

It is an `Agent`: its policy, approver, journal, limits and halt hold for all its members (`Agent.as_tool`), a run can
be resumed and audited, and members whose tasks do not wait for each other can be called at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from modelworks.agents.loop import Agent
from modelworks.agents.model import ChatModel
from modelworks.agents.planning.finish import Finishing
from modelworks.agents.team.roles import ROLES
from modelworks.core.errors import ConfigError

INSTRUCTIONS: Final = (
    "You lead a team and do no work yourself. Give one member after the other a task of its own, in words that say all "
    "it has to know: a member sees nothing but its task. Once their results answer the user, finish with the answer."
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
    return Agent(Finishing(model), tools, instructions=instructions, **{"name": "supervisor", **options})
