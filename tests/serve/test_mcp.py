"""Tests of `modelworks.serve.mcp`: the guard before the tools, and both ends together."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

from modelworks.agents.execute import execute
from modelworks.agents.halt import Halt
from modelworks.agents.mcp.client import McpError, McpServer, Server
from modelworks.agents.mcp.server import make_server
from modelworks.agents.tool import tool
from modelworks.serve import server
from modelworks.serve.mcp import Offering, create_mcp_app

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


@tool(effects=["reads"])
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@contextmanager
def serving(**options: Any) -> Iterator[str]:
    bound = server.bind("127.0.0.1", 0)
    started = threading.Event()
    app = create_mcp_app(Offering(make_server([add]), **options))
    running = server.make_server(app, shutdown_seconds=1, on_start=started.set)
    thread = threading.Thread(target=running.run, args=([bound],), daemon=True)
    thread.start()
    assert started.wait(20)
    try:
        yield f"{server.url(bound)}/mcp"
    finally:
        running.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as found:
        yield found


def test_our_client_uses_our_server(url: str) -> None:
    with McpServer(Server("own", url=url, effects=("reads",), seconds=20)) as connected:
        (found,) = connected.tools()
        assert found.name == "own_add"
        assert found.run(a=1, b=2) == "3"
        with pytest.raises(McpError, match="not of type 'integer'"):
            found.run(a="x", b=2)
        assert found.run(a=3, b=4) == "7"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "attacker.test"},
        {"host": "attacker.test:80"},
        {"host": "127.0.0.1.attacker.test"},
        {"host": "localhost@attacker.test"},
        {"origin": "http://attacker.test"},
        {"origin": "null"},
    ],
)
def test_a_page_elsewhere_cannot_drive_it(url: str, headers: dict[str, str]) -> None:
    """Fault 14 (notebooklm-py#1869)."""
    assert httpx.post(url, json=HELLO, headers=ACCEPT | headers).status_code == 403
    assert httpx.post(url, json=HELLO, headers=ACCEPT).status_code == 200


def test_a_key_is_asked_for_where_there_is_one() -> None:
    with serving(api_keys=["secret"]) as url:
        assert httpx.post(url, json=HELLO, headers=ACCEPT).status_code == 401
        with pytest.raises(McpError), McpServer(Server("own", url=url, seconds=10)):
            pass
        given = Server("own", url=url, headers={"Authorization": "Bearer secret"}, seconds=20)
        with McpServer(given) as connected:
            assert [each.name for each in connected.tools()] == ["own_add"]


def test_what_is_too_large_or_elsewhere_is_refused(url: str) -> None:
    assert (
        httpx.post(url, content=b"x" * (5 << 20), headers=ACCEPT | {"content-type": "application/json"}).status_code
        == 413
    )
    assert httpx.post(url.replace("/mcp", "/other"), json=HELLO).status_code == 404
    assert httpx.post(url, content=b"{", headers=ACCEPT | {"content-type": "application/json"}).status_code == 400


def test_a_server_that_is_gone_is_an_error() -> None:
    with serving() as url:
        connected = McpServer(Server("own", url=url, seconds=10)).__enter__()
        (found,) = connected.tools()
        assert found.run(a=1, b=1) == "2"
    with pytest.raises(McpError, match="MCP server own"):
        found.run(a=1, b=1)
    connected.close()


def test_openais_client_drives_the_same_tools_through_the_server(served, url: str) -> None:
    """A chat through `modelworks serve` whose calls are carried out by the tools of `modelworks mcp`."""
    with McpServer(Server("own", url=url, effects=("reads",), seconds=20)) as connected:
        (found,) = connected.tools()
        given = [{"type": "function", "function": found.described()}]
        wanted = '<tool_call>\n{"name": "own_add", "arguments": {"a":1,"b":2}}\n</tool_call>'
        [call] = served.say(wanted, tools=given).choices[0].message.tool_calls
        assert call.function.name == found.name
        result = execute(found, json.loads(call.function.arguments), Halt())
    messages = [
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": result.content},
        {"role": "user", "content": "thanks"},
    ]
    answer = served.openai.chat.completions.create(model="echo", messages=messages, tools=given, temperature=0)
    assert answer.choices[0].message.content == "thanks"
    assert "<tool_response>\n3\n</tool_response>" in served.model.prompts[-1]
