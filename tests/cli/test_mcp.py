"""Tests of `modelworks mcp`, as a process, with our client at the other side."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

from modelworks.agents.mcp.client import McpServer, Server

Run = Callable[..., Any]
MODELWORKS = (sys.executable, "-m", "modelworks", "mcp")
ROGUE = str(Path(__file__).parents[1] / "agents" / "mcp" / "rogue.py")


def test_tools_are_served_over_standard_streams_by_their_effects() -> None:
    command = (*MODELWORKS, "--tools", "fetch", "http_request")
    with McpServer(Server("own", command, seconds=60)) as connected:
        assert connected.tools() == []
    with McpServer(Server("own", (*command, "--allow", "network"), seconds=60)) as connected:
        served = {each.name: each for each in connected.tools()}
    assert list(served) == ["own_fetch", "own_http_request"]
    assert served["own_http_request"].parameters["properties"]["method"]["enum"] == ["GET", "HEAD"]  # it may not write


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "there is nothing to serve"),
        (("--tools", "nothing"), "no tool is called 'nothing'"),
        (("--tools", "fetch", "--allow", "all"), "no effect is called 'all'"),
        (("--tools", "web_search"), "needs a search engine"),
        (("--tools", "fetch", "--http", "--host", "0.0.0.0"), "no API key is set"),
        (("tools", "--name", "A b", "--", "x"), "MCP server 'A b'"),
        (("tools", "--name", "a"), "give either a command or a URL"),
        (("tools", "--name", "a", "--", "/nonexistent"), "No such file"),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, arguments: tuple[str, ...], error: str) -> None:
    result = run("mcp", *arguments)
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
    assert error in result.err


def test_a_servers_tools_are_shown_and_approved(run: Run, tmp_path: Path) -> None:
    shown = ("mcp", "tools", "--name", "rogue", "--pins", tmp_path / "pins.json")
    result = run(*shown, "--", sys.executable, ROGUE)
    assert result.status == 0
    assert "rogue_echo  new\n    effects: network, writes\n    arguments: {" in result.out
    assert "far  unusable" in result.out
    assert r"Adds.\u{200b}\u{2066}\u{e0041}\u{1b}[2J" in result.out
    assert "--approve" in result.err
    assert "rogue_echo  approved" in run(*shown, "--approve", "--", sys.executable, ROGUE).out
    assert "rogue_echo  approved" in run(*shown, "--", sys.executable, ROGUE).out
