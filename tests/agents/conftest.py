"""A model that says what a test has written for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modelworks.agents.model import Halted, Reply
from modelworks.agents.tool import Tool, tool
from modelworks.text.tool_calls import ToolCall


class ScriptedModel:
    """Says its replies in turn, and keeps what it was asked: messages, and the names of the tools."""

    name = "scripted"
    context_length = 4096

    def __init__(self, replies: Sequence[Any]) -> None:
        self._replies = iter(replies)
        self.asked: list[tuple[list[dict[str, Any]], list[str]]] = []

    def count(self, messages: Sequence[Any], tools: Sequence[Any] = ()) -> int:
        return sum(len(str(message.get("content", "")).split()) for message in messages)

    def reply(
        self, messages: Any, tools: Any = (), *, choice: Any = "auto", max_tokens: int = 512, halt: Any = None
    ) -> Reply:
        if halt is not None and halt.is_set():
            raise Halted("halted")
        self.asked.append(([dict(message) for message in messages], [tool.name for tool in tools]))
        reply = next(self._replies)
        if isinstance(reply, Exception):
            raise reply
        return reply


@pytest.fixture
def scripted() -> Callable[..., ScriptedModel]:
    """`scripted(reply, ...)`; a reply may be an exception, which is raised."""
    return lambda *replies: ScriptedModel(replies)


@pytest.fixture
def calls() -> Callable[..., Reply]:
    """A reply that calls: `calls(("name", '{"a": 1}'), ..., text="because")`."""
    return lambda *made, text="": Reply(text, tuple(ToolCall(*each) for each in made), 10, 5)


@pytest.fixture
def put() -> tuple[Tool, list[str]]:
    """A tool that keeps texts, and what it has kept."""

    @tool(effects=["writes"], isolated=False, trusted=True)
    def put(text: str) -> str:
        """Keep a text."""
        kept.append(text)
        return "kept"

    kept: list[str] = []
    return put, kept
