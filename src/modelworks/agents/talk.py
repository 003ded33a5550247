"""The two choices beside the tools: to ask the user for what is missing, and to say that no tool serves.

Both are offered in the form of tools, so that a model that is held to calls can still take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from modelworks.agents.tool import Tool

ASK_USER: Final = Tool(
    name="ask_user",
    description="Ask the user for something that is missing and that no tool can tell.",
    parameters={
        "type": "object",
        "properties": {"question": {"type": "string"}},
        "required": ["question"],
        "additionalProperties": False,
    },
    run=lambda question: question,
    effects=frozenset(),
)
NO_TOOL: Final = Tool(
    name="no_tool",
    description="Use no tool, since none serves the request.",
    parameters={"type": "object", "properties": {}, "additionalProperties": False},
    run=lambda: "",
    effects=frozenset(),
)


def question(tool: Tool, missing: Sequence[str]) -> str:
    """What the user is asked where a call of a tool lacks the named parameters."""
    properties = tool.parameters["properties"]
    told = [
        f"{name} ({properties[name]['description']})" if properties[name].get("description") else name
        for name in missing
    ]
    return f"To use {tool.name} I need: {'; '.join(told)}"
