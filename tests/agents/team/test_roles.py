from __future__ import annotations

import pytest

from modelworks.agents.team.roles import CODER, CRITIC, RESEARCHER, ROLES, WRITER, Role
from modelworks.agents.tool import Tool
from modelworks.core.errors import ConfigError


def named(*names: str) -> list[Tool]:
    return [Tool(name, "", {"type": "object"}, dict, frozenset()) for name in names]


TOOLS = named("search", "python", "write_file", "web_search", "read_file", "pay")


def test_each_role_gets_its_own_tools_only():
    found = {role.name: [tool.name for tool in role.tools_of(TOOLS)] for role in ROLES}
    assert found == {
        "researcher": ["search", "web_search", "read_file"],
        "writer": ["write_file", "read_file"],
        "critic": ["search", "read_file"],
        "coder": ["python", "write_file", "read_file"],
    }
    assert len({role.description for role in (RESEARCHER, WRITER, CRITIC, CODER)}) == 4


def test_a_role_of_ones_own_makes_an_agent(scripted):
    model = scripted()
    agent = Role("cashier", "Pays.", "You pay.", ("pay",)).agent(model, TOOLS)
    assert (agent.name, agent.instructions, agent.model) == ("cashier", "You pay.", model)
    assert [tool.name for tool in agent.tools] == ["pay"]


@pytest.mark.parametrize("name", ["", "two words", "x" * 49])
def test_a_name_that_no_tool_could_have_is_refused(name):
    with pytest.raises(ConfigError, match="a name has at most"):
        Role(name, "", "")
