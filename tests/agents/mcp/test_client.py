"""Tests of `modelworks.agents.mcp.client`, against servers that misbehave and one that does not."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

from modelworks.agents.mcp.client import McpError, McpServer, Server
from modelworks.agents.mcp.pins import Pins
from modelworks.core.errors import ConfigError

ROGUE = (sys.executable, str(Path(__file__).with_name("rogue.py")))


@pytest.fixture(scope="module")
def calm() -> Iterator[McpServer]:
    """A server for the tests that leave it as it was."""
    with McpServer(Server("rogue", ROGUE, seconds=20)) as server:
        yield server


@pytest.fixture
def rogue() -> Iterator[McpServer]:
    with McpServer(Server("rogue", ROGUE, seconds=20)) as server:
        yield server


def named(server: McpServer) -> dict[str, Callable[..., Any]]:
    return {tool.name.removeprefix(f"{server.server.name}_"): tool.run for tool in server.tools()}


def test_tools_of_a_server_are_called_under_its_name(calm: McpServer) -> None:
    tools = {tool.name: tool for tool in calm.tools()}
    echo = tools["rogue_echo"]
    assert echo.run(text="grüße") == "grüße"
    assert (echo.source, echo.isolated, echo.trusted) == ("mcp:rogue", False, False)
    assert echo.parameters["required"] == ["text"]


def test_hints_raise_effects_and_never_lower_them() -> None:
    configured = Server("rogue", ROGUE, effects=("money",), tools={"open": ("reads",)}, seconds=20)
    with McpServer(configured) as server:
        effects = {tool.name: tool.effects for tool in server.tools()}
    assert effects["rogue_echo"] == {"money"}  # although it says readOnlyHint
    assert effects["rogue_open"] == {"reads", "writes", "network"}


def test_a_tool_of_an_odd_schema_leaves_the_others(calm: McpServer) -> None:
    names = {tool.name for tool in calm.tools()}
    assert {"rogue_echo", "rogue_hidden"} <= names
    assert {"rogue_odd", "rogue_far"}.isdisjoint(names)
    assert "invalid" in calm.refused["odd"]
    assert "nothing is fetched" in calm.refused["far"]


def test_what_is_hidden_in_a_description_is_shown(calm: McpServer) -> None:
    told = next(tool.description for tool in calm.tools() if tool.name == "rogue_hidden")
    assert told == r"Adds.\u{200b}\u{2066}\u{e0041}\u{1b}[2J"


def test_results_of_all_kinds_become_text(calm: McpServer) -> None:
    run = named(calm)
    assert run["pictures"]() == "see:\n[image/png, 3 bytes]\n[file:///a.txt]\ninside\n[b: file:///b.txt]"
    assert len(run["large"]()) == 6_000_000
    assert run["noise"]() == "done"
    with pytest.raises(McpError, match=r"^no such city$"):
        run["fail"]()
    with pytest.raises(McpError, match=r"^MCP server rogue: no tools/call$"):
        run["refuse"]()


def test_a_server_gets_no_more_of_the_environment_than_it_needs(
    calm: McpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "x")
    with McpServer(Server("rogue", ROGUE, environment={"GIVEN": "y"}, seconds=20)) as server:
        names = named(server)["environment"]()
    assert "GIVEN" in names
    assert "SECRET_KEY" not in names


# --- definitions that change ------------------------------------------------------------------------------------------


def test_a_definition_that_changes_in_a_run_is_refused_until_approved(rogue: McpServer) -> None:
    run = named(rogue)
    run["change"]()
    for _ in range(2):
        with pytest.raises(McpError, match="echo is refused: its definition is another one than was approved"):
            run["echo"](text="x")
    assert "echo" not in named(rogue)
    assert run["noise"]() == "done"  # the others go on
    rogue.approve("echo")
    assert run["echo"](text="x") == "x"
    assert "attacker" in next(tool.description for tool in rogue.tools() if tool.name == "rogue_echo")
    with pytest.raises(McpError, match="has no tool 'nothing'"):
        rogue.approve("nothing")


def test_a_definition_that_changed_between_runs_is_refused(tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    with McpServer(Server("rogue", ROGUE, seconds=20), Pins(pins)) as server:
        assert "echo" in named(server)
    Pins(pins).put("rogue", {"echo": "0" * 64})
    with McpServer(Server("rogue", ROGUE, seconds=20), Pins(pins)) as server:
        assert "echo" not in named(server)
        assert "another one than was approved" in server.refused["echo"]
        server.approve()
        assert "echo" in named(server)
    with McpServer(Server("rogue", ROGUE, seconds=20), Pins(pins)) as server:
        assert "echo" in named(server)


def test_a_tool_that_is_new_is_asked_about(tmp_path: Path) -> None:
    pins, asked = Pins(tmp_path / "pins.json"), []

    def admit(server: str, told: Any) -> bool:
        asked.append((server, told["name"]))
        return told["name"] == "echo"

    for _ in range(2):
        with McpServer(Server("rogue", ROGUE, seconds=20), pins, admit=admit) as server:
            assert list(named(server)) == ["echo"]
            assert "not admitted" in server.refused["die"]
    assert asked.count(("rogue", "echo")) == 1
    assert asked.count(("rogue", "die")) == 2


# --- servers that fail ------------------------------------------------------------------------------------------------


def test_a_server_that_dies_is_an_error_and_starts_anew(rogue: McpServer) -> None:
    run = named(rogue)
    with pytest.raises(
        McpError, match=r"^MCP server rogue: Connection closed; its last words: panic: \\u\{1b\}\[31mout of tea$"
    ):
        run["die"]()
    assert run["echo"](text="again") == "again"


def test_a_server_that_hangs_is_left_in_time() -> None:
    with McpServer(Server("rogue", ROGUE, seconds=1.0)) as server:
        run = named(server)
        with pytest.raises(McpError, match="gave no answer within 1 seconds"):
            run["hang"]()
        assert run["echo"](text="again") == "again"


@pytest.mark.parametrize("name", ["line", "chatter"])
def test_a_server_that_floods_is_cut_off(rogue: McpServer, name: str) -> None:
    run = named(rogue)
    with pytest.raises(McpError, match="Connection closed"):
        run[name]()
    assert run["echo"](text="again") == "again"


def test_a_halt_ends_a_waiting_call_within_a_second(rogue: McpServer) -> None:
    """Fault 11: as the loop does it, by an exception in the thread that waits."""
    import ctypes

    class Stop(BaseException): ...

    run, ended = named(rogue), []

    def wait() -> None:
        try:
            run["hang"]()
        except Stop:
            ended.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stop))
    thread.join(5)
    assert ended
    assert ended[0] - began < 1.0


def test_the_end_kills_a_server_with_its_children() -> None:
    with McpServer(Server("rogue", ROGUE, seconds=20)) as server:
        child = int(named(server)["child"]())
        os.kill(child, 0)
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # killed, and nobody's child to wait for
            return
        time.sleep(0.02)
    raise AssertionError("the server's child lives")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (("/nonexistent/server",), "No such file or directory"),
        ((sys.executable, "-c", "import sys; sys.exit('no configuration')"), "its last words: no configuration"),
        ((sys.executable, "-c", "print('hello')"), "Connection closed"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "gave no start within 2 seconds"),
    ],
)
def test_a_server_that_does_not_start_is_one_line(command: tuple[str, ...], error: str) -> None:
    with pytest.raises(McpError, match=error) as caught, McpServer(Server("bad", command, seconds=2.0)):
        pass
    assert "\n" not in str(caught.value)


def test_a_server_at_a_url_that_nobody_serves_is_one_line() -> None:
    with (
        pytest.raises(McpError, match="MCP server bad"),
        McpServer(Server("bad", url="http://127.0.0.1:1/mcp", seconds=5)),
    ):
        pass


def test_two_threads_may_call_at_once(rogue: McpServer) -> None:
    run, answers = named(rogue), []
    threads = [threading.Thread(target=lambda n=n: answers.append(run["echo"](text=str(n)))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == [str(n) for n in range(8)]


def test_a_server_that_is_not_open_is_said() -> None:
    server = McpServer(Server("rogue", ROGUE))
    with pytest.raises(McpError, match="not in use"):
        server.tools()


@pytest.mark.parametrize(
    "given",
    [
        {"name": "a_b", "command": ("x",)},
        {"name": "", "command": ("x",)},
        {"name": "a"},
        {"name": "a", "command": ("x",), "url": "http://x"},
        {"name": "a", "url": "x"},
        {"name": "a", "command": ("x",), "effects": ("none",)},
        {"name": "a", "command": ("x",), "tools": {"t": ("none",)}},
    ],
)
def test_a_configuration_that_cannot_be_is_said(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Server(**given)
