"""Tests of `modelworks.agents.mcp.server`: what is offered to others, and what a call of theirs may do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

import anyio
from mcp import Client, MCPError

from modelworks.agents.mcp.server import make_server, offered
from modelworks.agents.tool import Tool, tool
from modelworks.core.errors import ConfigError


@tool(effects=["reads"])
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@tool(effects=["reads"])
def broken() -> str:
    """Raises."""
    raise ValueError("no tea")


@tool(effects=[], timeout=30)
def slow(path: str) -> str:
    """Goes on and on."""
    while True:
        with Path(path).open("a") as file:
            file.write(".")
        time.sleep(0.05)


@tool(effects=["writes"])
def write(path: str) -> None:
    """Write a file."""
    Path(path).write_text("written")


@tool(effects=["reads", "network"])
def look() -> None:
    """Look something up."""


TOOLS = (add, broken, slow, write, look)


def asked(server: Any, work: Callable[[Client], Any], mode: str = "auto") -> Any:
    async def run() -> Any:
        async with Client(server, mode=mode) as client:
            return await work(client)

    return anyio.run(run)


def names(tools: list[Tool]) -> list[str]:
    return [each.name for each in tools]


def test_only_what_reads_is_offered_unless_more_is_allowed() -> None:
    assert names(offered(TOOLS)) == ["add", "broken", "slow"]
    assert names(offered(TOOLS, ["reads", "network"])) == ["add", "broken", "slow", "look"]
    assert names(offered(TOOLS, [])) == ["slow"]
    with pytest.raises(ConfigError, match="no effect is called 'all'"):
        offered(TOOLS, ["all"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="two tools are called 'add'"):
        make_server([add, add])


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_tools_are_listed_and_called(mode: str) -> None:
    async def work(client: Client) -> Any:
        return await client.list_tools(), await client.call_tool("add", {"a": "2"})  # repaired, as a model's is

    listed, called = asked(make_server(TOOLS, ["reads", "network", "writes"]), work, mode)
    told = {each.name: each for each in listed.tools}
    assert told["add"].input_schema == add.parameters
    assert told["add"].description == "Add two numbers."
    hints = {name: (each.annotations.read_only_hint, each.annotations.open_world_hint) for name, each in told.items()}
    assert hints["add"] == (True, False)
    assert hints["write"] == (False, False)
    assert hints["look"] == (True, True)
    assert (called.content[0].text, called.is_error) == ("3", False)


def test_what_is_wrong_with_a_call_is_said_to_the_model(tmp_path: Path) -> None:
    async def work(client: Client) -> Any:
        with pytest.raises(MCPError, match="there is no tool 'write'"):
            await client.call_tool("write", {"path": str(tmp_path / "file")})
        return [await client.call_tool("add", {"a": "x"}), await client.call_tool("broken", {})]

    wrong, raised = asked(make_server(TOOLS), work)
    assert wrong.is_error
    assert "a: 'x' is not of type 'integer'" in wrong.content[0].text
    assert raised.is_error
    assert raised.content[0].text.startswith("error: ValueError: no tea")
    assert not (tmp_path / "file").exists()


def test_a_call_that_is_cancelled_stops_its_tool(tmp_path: Path) -> None:
    """Fault 11: what a client has left does not go on."""
    heartbeat = tmp_path / "heartbeat"

    async def work(client: Client) -> None:
        with anyio.move_on_after(1.0):
            await client.call_tool("slow", {"path": str(heartbeat)})
        await anyio.sleep(0.5)
        size = heartbeat.stat().st_size
        assert size > 0
        await anyio.sleep(0.5)
        assert heartbeat.stat().st_size == size
        assert (await client.call_tool("add", {"a": 1})).content[0].text == "2"

    asked(make_server(TOOLS), work, "legacy")
