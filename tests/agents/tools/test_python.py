from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from modelworks.agents.execute import execute
from modelworks.agents.halt import Halt
from modelworks.agents.sandbox.kinds import Bounds, SandboxError
from modelworks.agents.sandbox.probe import probe
from modelworks.agents.tool import Tool
from modelworks.agents.tools.python import python

pytestmark = pytest.mark.skipif(probe().kind != "bubblewrap", reason="needs bubblewrap")


@pytest.fixture(scope="module")
def tool() -> Tool:
    return python()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('a')\n1 + 1", "a\n2"),
        ("x = 5", "(no output)"),
        ("'text'", "text"),
        ("None", "(no output)"),
        ("[n ** 2 for n in range(4)]", "[0, 1, 4, 9]"),
        ("def f(n):\n    return 1 if n < 2 else n * f(n - 1)\nf(10)", "3628800"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nP(1)", "P(x=1)"),
        ("print('é')", "é"),
        ("", "(no output)"),
    ],
)
def test_what_is_printed_and_the_last_value_come_back(tool: Tool, code: str, expected: str) -> None:
    assert tool.run(code=code).content == expected


def test_an_error_is_told_with_the_codes_lines_alone(tool: Tool) -> None:
    said = tool.run(code="print('before')\ndef f():\n    return 1 / 0\nf()").content
    assert said.startswith('before\nTraceback (most recent call last):\n  File "code", line 4, in <module>\n    f()\n')
    assert said.endswith("ZeroDivisionError: division by zero\n[ended with status 1]")
    assert "exec(" not in said
    assert "'(' was never closed" in tool.run(code="x = (").content
    assert tool.run(code="import sys; sys.exit(4)").content == "[ended with status 4]"


def test_without_a_workspace_it_has_no_effect(tool: Tool) -> None:
    assert tool.effects == frozenset()
    assert tool.run(code="open('a', 'w').write('x')").content == "1"
    assert tool.run(code="import os; os.path.exists('a')").content == "False"  # each call begins anew


def test_files_are_those_of_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("given")
    tool = python(tmp_path)
    assert tool.effects == {"reads", "writes"}
    assert tool.run(code="open('out.txt', 'w').write(open('in.txt').read().upper())").content == "5"
    assert (tmp_path / "out.txt").read_text() == "GIVEN"
    reader = python(tmp_path, write=False)
    assert reader.effects == {"reads"}
    assert reader.run(code="open('in.txt').read()").content == "given"
    assert "Read-only file system" in reader.run(code="open('in.txt', 'w')").content


@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}).read()",
        "import os; os.system('cat ' + {path!r})",
        "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]"
        ".__init__.__globals__['sys'].modules['io'].open({path!r}).read()",  # smolagents#2094, #2395
        "import ctypes, os; os.read(ctypes.CDLL(None).open({path!r}.encode(), 0), 9)",
    ],
)
def test_a_canary_is_not_read_by_any_trick_of_python(tool: Tool, tmp_path: Path, code: str) -> None:
    (tmp_path / "canary").write_text("secret")
    assert "secret" not in tool.run(code=code.format(path=str(tmp_path / "canary"))).content


def test_the_packages_of_this_interpreter_are_there(tool: Tool) -> None:
    assert tool.run(code="import numpy\nint(numpy.arange(4).sum())").content == "6"


def test_bounds_are_told(tmp_path: Path) -> None:
    slow = python(bounds=Bounds(seconds=1.0))
    assert slow.run(code="print('begun', flush=True)\nwhile True: pass").content.startswith("begun\n[killed after 1.")
    assert "MemoryError" in slow.run(code="x = bytearray(3 << 30)").content
    assert "bytes left out" in slow.run(code="print('x' * 6_000_000)").content


def test_where_nothing_can_be_confined_there_is_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelworks.agents.sandbox import run
    from modelworks.agents.sandbox.probe import Probe

    monkeypatch.setattr(run, "probe", lambda: Probe({"bubblewrap": "is forbidden", "landlock": "is not enabled"}))
    with pytest.raises(SandboxError, match="nothing is run: bubblewrap: is forbidden"):
        python()


def test_a_halt_ends_code_that_runs_and_all_that_it_started(tmp_path: Path) -> None:
    """A cancelled tool that ran on (adk-python#2425)."""
    tool, halt = python(tmp_path), Halt()

    def when_it_runs() -> None:
        while not (tmp_path / "beat").exists():
            time.sleep(0.01)
        halt.set()

    thread = threading.Thread(target=when_it_runs)
    thread.start()
    code = "import os, time\nos.fork()\nwhile True:\n    open('beat', 'a').write('x')\n    time.sleep(0.02)"
    outcome = execute(tool, {"code": code}, halt)
    thread.join()
    assert outcome.error
    assert outcome.unknown  # it may have written
    time.sleep(0.3)
    size = (tmp_path / "beat").stat().st_size
    time.sleep(0.3)
    assert (tmp_path / "beat").stat().st_size == size
