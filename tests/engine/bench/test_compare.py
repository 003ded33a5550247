"""Processes that are measured in turn, and peers that fail in every way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.engine.bench import measure
from modelworks.engine.bench.compare import LLAMA, OWN, TRANSFORMERS, Figure, Side, Task, compare, find_peers, own

Fake = Callable[[str, str], Side]
MakeTask = Callable[..., Task]
GOOD = "say(about={'version': '1'})\nsay(measure='decode', samples=[2.0, 4.0], tokens=[7, 8])\nsay(done=True)\n"
ONLY_DECODE = ("decode",)


def test_sides_take_turns_and_every_sample_is_kept(fake: Fake, make_task: MakeTask, tmp_path: Path) -> None:
    log = tmp_path / "log"
    sides = [fake(name, f"open({str(log)!r}, 'a').write({name[0]!r})\n{GOOD}") for name in (OWN, "peer")]
    steps: list[int] = []
    outcomes = compare(
        make_task(kinds=ONLY_DECODE), sides, rounds=3, advance=lambda done=1, *, note=None: steps.append(done)
    )
    assert log.read_text() == "mpmpmp"
    assert sum(steps) == 6
    for side in (OWN, "peer"):
        assert outcomes[side].samples == {"decode": [2.0, 4.0] * 3}
        assert outcomes[side].about == {"version": "1"}
        assert outcomes[side].tokens == {"decode": [7, 8]}
        assert outcomes[side].fault is None


def test_a_side_gets_the_task_and_its_threads(fake: Fake, make_task: MakeTask) -> None:
    code = (
        "say(measure='decode', samples=[task['threads'], int(os.environ['OMP_NUM_THREADS']), "
        "int(os.environ['MODELWORKS_THREADS']), task['context']])\nsay(done=True)"
    )
    outcomes = compare(make_task(threads=3, kinds=ONLY_DECODE), [fake(OWN, code)], rounds=1)
    assert outcomes[OWN].samples == {"decode": [3, 3, 3, 8]}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('first\\nno such thing\\n')", "status 1: no such thing"),
        ("raise ValueError('wrong')", "ValueError: wrong"),
        ("os.kill(os.getpid(), 9)", "status -9"),
        ("pass", "status 0"),
        ("print('\\x1b[31mHello, world')", "no result: '\\x1b[31mHello, world'"),
        ("print('x' * 100_000)", "no result"),
        ("os.write(1, b'\\xff\\xfe\\n')", "no result"),
        ("print('[' * 100_000)", "no result"),
        ("print('7')", "no result"),
        ("say(measure='decode', samples=[float('nan')])", "no result"),
        ("say(measure='decode', samples=[float('inf')])", "no result"),
        ("say(measure='decode', samples=[-1.0])", "no result"),
        ("say(measure='decode', samples=[])", "no result"),
        ("say(measure='decode', samples=['1'])", "no result"),
        ("say(measure='elsewhere', samples=[1.0])", "no result"),
        ("say(measure='decode', samples=[1.0]); say(measure='decode', samples=[1.0])", "no result"),
        ("say(measure='decode', samples=[1.0], tokens=7)", "no result"),
        ("say(about={'version': 3})", "no result"),
        ("time.sleep(60)", "nothing for 2 seconds"),
        ("os.close(1); time.sleep(60)", "stopped reporting"),
    ],
)
def test_a_peer_that_fails_is_one_line_and_the_run_goes_on(
    fake: Fake, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    monkeypatch.setattr("modelworks.engine.bench.compare._LINGER", 0.5)
    sides = [fake(OWN, GOOD), fake("bad", code), fake("good", GOOD)]
    steps: list[int] = []
    outcomes = compare(
        make_task(kinds=ONLY_DECODE),
        sides,
        rounds=2,
        patience=2,
        advance=lambda done=1, *, note=None: steps.append(done),
    )
    fault = outcomes["bad"].fault
    assert fault is not None
    assert said in fault
    assert len(fault) <= 200
    assert "\n" not in fault
    assert sum(steps) == 6
    for side in (OWN, "good"):
        assert outcomes[side].samples == {"decode": [2.0, 4.0] * 2}
        assert outcomes[side].fault is None


def test_what_a_peer_measured_before_it_failed_is_kept(fake: Fake, make_task: MakeTask, tmp_path: Path) -> None:
    times = tmp_path / "times"
    code = f"open({str(times)!r}, 'a').write('x')\nsay(measure='decode', samples=[1.5])\nsys.exit('no memory')"
    outcomes = compare(make_task(kinds=ONLY_DECODE), [fake(OWN, GOOD), fake("bad", code)], rounds=3)
    assert outcomes["bad"].samples == {"decode": [1.5]}
    assert outcomes["bad"].fault == "it ended with status 1: no memory"
    assert times.read_text() == "x"  # it is not asked again


def test_nothing_of_a_peer_that_hangs_is_left_behind(fake: Fake, make_task: MakeTask, tmp_path: Path) -> None:
    child = tmp_path / "child"
    started = "subprocess.Popen(['sleep', '60']).pid"
    code = f"import subprocess\nopen({str(child)!r}, 'w').write(str({started}))\ntime.sleep(60)"
    compare(make_task(kinds=ONLY_DECODE), [fake("bad", code)], rounds=1, patience=2)
    pid = int(child.read_text())
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)


def test_nothing_goes_on_when_modelworks_is_killed(make_task: MakeTask, tmp_path: Path) -> None:
    """Killed, it can tidy up nothing: the measuring process sees by itself that it is alone, and ends with its own."""
    child, grandchild = tmp_path / "child", tmp_path / "grandchild"
    measuring = (
        f"{Path(measure.__file__).read_text()}\nend_with_parent()\nimport subprocess\n"
        f"open({str(grandchild)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        f"open({str(child)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    script = (
        "import sys\nfrom modelworks.engine.bench.compare import Side, Task, compare\n"
        f"compare(Task(**{asdict(make_task())!r}), [Side('x', (sys.executable, '-c', {measuring!r}))], rounds=1)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    for _ in range(600):
        if child.exists() and child.read_text():
            break
        time.sleep(0.05)
    pids = [int(file.read_text()) for file in (child, grandchild)]
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not any(map(alive, pids)):
            break
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_that_is_not_there(fake: Fake, make_task: MakeTask, tmp_path: Path) -> None:
    sides = [fake(OWN, GOOD), Side("peer", (str(tmp_path / "gone"),))]
    outcomes = compare(make_task(kinds=ONLY_DECODE), sides, rounds=1)
    assert outcomes["peer"].fault == "it cannot be started: No such file or directory"


def test_modelworks_itself_must_not_fail(fake: Fake, make_task: MakeTask) -> None:
    with pytest.raises(ModelworksError, match=r"tiny: it ended with status 1: broken$"):
        compare(make_task(), [fake(OWN, "sys.exit('broken')")], rounds=1)


def test_a_context_that_is_too_long_is_the_users_to_mend(make_task: MakeTask) -> None:
    with pytest.raises(ModelworksError, match=r"made for 48 tokens.* need 60 .*lower --context$"):
        compare(make_task(context=40), [own()], rounds=1)


def test_figures() -> None:
    assert Figure.of([3.0, 1.0, 2.0], higher_is_better=True) == Figure(2.0, 3.0, (3.0, 1.0, 2.0))
    assert Figure.of([3.0, 1.0, 2.0], higher_is_better=False).best == 1.0


# --- which peers there are --------------------------------------------------------------------------------------------


def interpreter(folder: Path, *packages: str) -> Path:
    """A Python that has the packages, which do nothing, and no others."""
    for package in packages:
        (folder / "lib" / package).mkdir(parents=True)
        (folder / "lib" / package / "__init__.py").touch()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder / "lib"}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    return python


def test_peers_are_taken_from_the_interpreters_that_have_them(tmp_path: Path) -> None:
    first = interpreter(tmp_path / "a", "llama_cpp", "numpy")
    second = interpreter(tmp_path / "b", "llama_cpp", "numpy", "transformers", "torch")
    sides, missing = find_peers([first, second])
    assert [(side.name, side.command[0]) for side in sides] == [(LLAMA, str(first)), (TRANSFORMERS, str(second))]
    assert missing == {}
    only, missing = find_peers([second], [TRANSFORMERS])
    assert [side.name for side in only] == [TRANSFORMERS]
    assert missing == {}
    assert find_peers([], []) == ([], {})


def test_a_peer_that_is_not_here_is_said_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = interpreter(tmp_path, "numpy", "transformers")  # without torch, transformers computes nothing
    monkeypatch.setattr(sys, "executable", str(bare))
    monkeypatch.setenv("PATH", str(tmp_path))
    sides, missing = find_peers()
    assert sides == []
    assert set(missing) == {LLAMA, TRANSFORMERS}
    assert "pip install llama-cpp-python" in missing[LLAMA]


@pytest.mark.parametrize("name", ["gone", "false"])
def test_an_interpreter_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "false").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "false").chmod(0o755)
    with pytest.raises(ConfigError, match=f"{name} does not run as a Python interpreter"):
        find_peers([tmp_path / name])


def test_the_working_folder_is_not_imported_from(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "numpy", "modelworks", "measure"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working folder')\n")
    monkeypatch.chdir(tmp_path)
    assert os.getcwd() == str(tmp_path)  # noqa: PTH109
    outcomes = compare(make_task(kinds=ONLY_DECODE), [own()], rounds=1)
    assert len(outcomes[OWN].tokens["decode"]) == 20
