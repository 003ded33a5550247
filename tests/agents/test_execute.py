from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from modelworks.agents.execute import MOST_CHARACTERS, execute, shortened
from modelworks.agents.halt import Halt
from modelworks.agents.tool import Result, Tool, tool


def _tool(function: Callable[..., Any], **fields: Any) -> Tool:
    return tool(effects=[], **fields)(function)


BOTH = pytest.mark.parametrize("isolated", [True, False])


@BOTH
@pytest.mark.parametrize(
    ("returned", "content", "error"),
    [
        ("text", "text", False),
        ({"a": [1, 2.5]}, '{"a": [1, 2.5]}', False),
        (None, "done", False),
        (b"\xff\x00", "2 bytes, which are no text", True),
        (Result("found", frozenset({"a.txt"})), "found", False),
        ({"when": Path("x")}, '{"when": "x"}', False),
    ],
)
def test_what_a_tool_returns_becomes_text(isolated: bool, returned: Any, content: str, error: bool) -> None:
    outcome = execute(_tool(lambda: returned, name="give", isolated=isolated), {}, Halt())
    assert (outcome.content, outcome.error, outcome.unknown) == (content, error, False)
    assert outcome.origins == (returned.origins if isinstance(returned, Result) else frozenset())


@BOTH
def test_a_tool_that_raises_gives_an_observation_with_the_place(isolated: bool) -> None:
    """deepagents#138: an exception of a tool must not end the run."""

    def fail(x: int) -> None:
        raise KeyError("no such thing")

    outcome = execute(_tool(fail, isolated=isolated), {"x": 1}, Halt())
    assert outcome.error
    assert "KeyError: 'no such thing'" in outcome.content
    assert "of fail)" in outcome.content


def test_a_tool_that_leaves_the_interpreter_gives_an_observation() -> None:
    assert execute(_tool(_exit), {}, Halt()).error
    outcome = execute(_tool(_die), {}, Halt())
    assert outcome.error
    assert outcome.unknown
    assert "status 3" in outcome.content


def _exit() -> None:
    sys.exit(1)


def _die() -> None:
    os._exit(3)


def test_what_a_tool_prints_is_its_result_where_it_returns_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def flood() -> None:
        for _ in range(6000):
            print("x" * 1023)

    outcome = execute(_tool(flood), {}, Halt())
    assert outcome.content.startswith("xxx")
    assert len(outcome.content) <= MOST_CHARACTERS + 100
    assert capfd.readouterr() == ("", "")


def test_a_result_of_6_mb_loses_its_middle() -> None:
    outcome = execute(_tool(lambda: "a" * 3_000_000 + "b" * 3_000_000, name="big"), {}, Halt())
    assert len(outcome.content) < MOST_CHARACTERS + 100
    assert outcome.content.startswith("aaa")
    assert outcome.content.endswith("bbb")
    assert not outcome.error


@pytest.mark.parametrize("isolated", [True, False])
def test_a_halt_stops_a_tool_within_a_second(isolated: bool, tmp_path: Path) -> None:
    """adk-python#2425: a cancelled run left its tool running; here its heartbeat stops."""
    heartbeat = tmp_path / "heartbeat"

    def beat() -> None:
        while True:
            with heartbeat.open("a") as file:
                file.write(".")
            with suppress(Exception):  # a tool that swallows all that it can
                time.sleep(0.02)

    halt, found = Halt(), list[Any]()
    thread = threading.Thread(target=lambda: found.append(execute(_tool(beat, isolated=isolated), {}, halt)))
    thread.start()
    while not heartbeat.exists():
        time.sleep(0.01)
    begun = time.monotonic()
    halt.set()
    thread.join(5)
    assert time.monotonic() - begun < 1
    time.sleep(0.1)
    size = heartbeat.stat().st_size
    time.sleep(0.3)
    assert heartbeat.stat().st_size == size
    assert found[0].error
    assert found[0].unknown


def test_a_tool_that_blocks_and_ignores_signals_is_killed_with_what_it_started(tmp_path: Path) -> None:
    started = tmp_path / "pid"

    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "1000"])
        started.write_text(str(child.pid))
        time.sleep(1000)

    begun = time.monotonic()
    outcome = execute(_tool(stubborn), {}, Halt(), timeout=1.5)
    assert time.monotonic() - begun < 4
    assert outcome.error
    assert outcome.unknown
    assert "1.5 seconds" in outcome.content
    time.sleep(0.1)
    assert _is_gone(int(started.read_text()))


def test_a_tool_dies_with_the_process_that_runs_it(tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    code = f"""
import time, pathlib
from modelworks.agents.execute import execute
from modelworks.agents.halt import Halt
from modelworks.agents.tool import tool
def beat() -> None:
    while True:
        pathlib.Path({str(heartbeat)!r}).write_text(str(time.monotonic())); time.sleep(.02)
execute(tool(beat), {{}}, Halt())
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not heartbeat.exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    time.sleep(0.3)
    last = heartbeat.read_text()
    time.sleep(0.3)
    assert heartbeat.read_text() == last


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_tool_that_is_not_isolated_shares_memory() -> None:
    kept: list[int] = []
    execute(_tool(lambda: kept.append(1), name="keep"), {}, Halt())
    assert kept == []
    execute(_tool(lambda: kept.append(1), name="keep", isolated=False), {}, Halt())
    assert kept == [1]


def test_what_is_halted_already_does_not_run_on() -> None:
    halt = Halt()
    halt.set()
    begun = time.monotonic()
    assert execute(_tool(lambda: time.sleep(30), name="late"), {}, halt).error
    assert time.monotonic() - begun < 2


def test_what_is_short_enough_stays_whole() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 50 + "b" * 50, 30) == "a" * 20 + "\n[... 70 characters left out ...]\n" + "b" * 10
