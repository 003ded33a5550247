"""Roles: what an agent is told to be, and which of the tools it gets. A role of your own is one more `Role`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from modelworks.agents.loop import Agent
from modelworks.agents.model import ChatModel
from modelworks.agents.tool import Tool
from modelworks.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Role:
    """A member's part in a team. Raises `ConfigError` for a name that no tool could have."""

    name: str
    description: str
    """What it can do, for whoever chooses among the roles."""
    instructions: str
    tools: tuple[str, ...] = ()
    """The names of its tools, or patterns of them such as "read_*"; a name that no tool has is passed over."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or len(self.name) > 48:
            raise ConfigError(f"role {self.name!r}: a name has at most 48 letters, digits and '_'")

    def tools_of(self, tools: Sequence[Tool]) -> list[Tool]:
        """Those of some tools that are the role's, in their order."""
        return [tool for tool in tools if any(fnmatchcase(tool.name, pattern) for pattern in self.tools)]

    def agent(self, model: ChatModel, tools: Sequence[Tool] = (), **options: Any) -> Agent:
        """An agent in this role, with its tools among those that are given; `options` are `Agent`'s."""
        return Agent(model, self.tools_of(tools), instructions=self.instructions, name=self.name, **options)


RESEARCHER: Final = Role(
    "researcher",
    "Finds facts in documents, tables and on the web, and says where each stands.",
    "You find facts. Search before you answer, and say for each fact where it stands. Say so where you find nothing; "
    "never fill a gap with what you only suppose.",
    ("search*", "web_search", "fetch", "http_*", "read_*", "list_*", "sql*"),
)
WRITER: Final = Role(
    "writer",
    "Writes a text from facts and notes that it is given.",
    "You write. Use only what you are given, put the most important thing first, and use plain words. Hand over the "
    "text alone.",
    ("read_*", "write_*", "edit_*"),
)
CRITIC: Final = Role(
    "critic",
    "Looks for mistakes in a text, a calculation or a plan, and says how to mend them.",
    "You look for mistakes: wrong facts, wrong numbers, gaps, and what contradicts itself. Check each calculation. "
    "List what is wrong and how to mend it; where nothing is, say that it is right.",
    ("calculator", "read_*", "search*"),
)
CODER: Final = Role(
    "coder",
    "Writes and runs code, and calculates.",
    "You solve tasks with code. Write the shortest program that does it, run it, read what it prints, and answer with "
    "the result and not with the program.",
    ("python", "command", "calculator", "read_*", "write_*", "edit_*", "list_*", "sql*"),
)
ROLES: Final[tuple[Role, ...]] = (RESEARCHER, WRITER, CRITIC, CODER)
