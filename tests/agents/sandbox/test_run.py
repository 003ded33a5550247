"""What a command in the sandbox sees, may do and may use up, under each kind of confinement."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from modelworks.agents.halt import Halt
from modelworks.agents.sandbox import run as module
from modelworks.agents.sandbox.kinds import Bounds, Kind, Launch, SandboxError, start
from modelworks.agents.sandbox.probe import Probe
from modelworks.agents.sandbox.run import Sandbox
from modelworks.agents.sandbox.watch import watch

_MIB = 1 << 20


def _python(code: str) -> list[str]:
    return ["/usr/bin/python3", "-I", "-S", "-c", code]


needs_python = pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="there is no /usr/bin/python3")


def test_output_status_and_input_come_through(kind: Kind) -> None:
    result = Sandbox(kind=kind).run(["sh", "-c", "cat; echo bad >&2; exit 3"], stdin=b"\xe9\x00given")
    assert (result.status, result.stdout, result.stderr) == (3, "\ufffd\x00given", "bad\n")
    assert not result.truncated
    assert result.killed == ""


def test_a_canary_outside_cannot_be_read_or_changed(kind: Kind, tmp_path: Path, workspace: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("secret")
    canary.chmod(0o666)
    script = f"cat {canary}; cat {workspace}/../canary; ln -s {canary} l; cat l; echo x > {canary}; rm {canary}"
    result = Sandbox(kind=kind, write=[workspace]).run(["sh", "-c", script])
    assert "secret" not in result.stdout
    assert canary.read_text() == "secret"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files that others may not read")
def test_what_is_roots_in_the_workspace_belongs_to_roots_command(tmp_path: Path) -> None:
    try:
        sandbox = Sandbox(kind="bubblewrap", write=[tmp_path])
    except SandboxError as error:
        pytest.skip(str(error))
    (tmp_path / "mine").write_text("read")
    (tmp_path / "mine").chmod(0o600)
    result = sandbox.run(["sh", "-c", "id -u; cat mine; echo more >> mine; echo new > other"])
    assert result.stdout.endswith("\nread")
    assert 50_000 <= int(result.stdout.split()[0]) < 60_000
    assert (tmp_path / "mine").read_text() == "readmore\n"
    assert (tmp_path / "other").stat().st_uid == 0  # not a stranger's


def test_a_read_only_folder_stays_as_it_is(kind: Kind, workspace: Path) -> None:
    (workspace / "file").write_text("kept")
    before = (workspace / "file").stat()
    result = Sandbox(kind=kind, read=[workspace]).run(
        [
            "sh",
            "-c",
            f"cat {workspace}/file; cd {workspace}; echo x > file; touch new; rm file; chmod 777 file; touch file",
        ]
    )
    assert result.stdout == "kept"
    after = (workspace / "file").stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)
    assert [path.name for path in workspace.iterdir()] == ["file"]


def test_the_environment_is_not_the_callers(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    result = Sandbox(kind=kind).run(["env"], env={"GIVEN": "1"})
    assert "secret" not in result.stdout
    assert "GIVEN=1" in result.stdout.splitlines()


@needs_python
def test_there_is_no_network(kind: Kind) -> None:
    code = "import socket\nfor f in (1, 2, 10, 16, 40):\n try: print(socket.socket(f, 1))\n except OSError: pass"
    assert Sandbox(kind=kind).run(_python(code)).stdout == ""


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(kind: Kind, workspace: Path) -> None:
    script = "trap '' TERM INT HUP; (while :; do date > beat; sleep 0.05; done) & sleep 100"
    result = Sandbox(kind=kind, write=[workspace], bounds=Bounds(seconds=0.5)).run(["sh", "-c", script])
    assert result.killed == "time"
    assert result.status != 0
    _still(workspace / "beat")


def _still(beat: Path) -> None:
    """Nothing writes to a file any more."""
    assert beat.exists()
    last = beat.stat().st_mtime_ns
    time.sleep(0.3)
    assert beat.stat().st_mtime_ns == last


def test_what_a_command_leaves_behind_is_killed_when_it_ends(kind: Kind, workspace: Path) -> None:
    script = "(while :; do date > beat; sleep 0.05; done) > /dev/null 2>&1 & sleep 0.3; echo done"
    result = Sandbox(kind=kind, write=[workspace]).run(["sh", "-c", script])
    assert (result.stdout, result.killed) == ("done\n", "")
    _still(workspace / "beat")


@needs_python
def test_all_that_a_command_left_has_ended_when_its_result_is_there(kind: Kind) -> None:
    """bubblewrap says that a command has ended before the other processes of its namespace have."""
    code = (
        "import os, time\nfor _ in range(50):\n  if os.fork() == 0:\n"
        "    x = bytearray(8 << 20); os.setsid(); os.closerange(0, 64); time.sleep(60); os._exit(0)"
    )
    for _ in range(8):
        started = start(kind, Launch(_python(code)))
        assert watch(started, Bounds()).status == 0
        assert [each for each in _children(started.root) if _state(each) not in ("", "Z")] == []


def _children(process: int) -> list[int]:
    """Of a namespace's first process all that are left, since it gets those whose parent ends."""
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _state(process: int) -> str:
    """The kernel's letter for what a process does: Z where it has ended and nobody asked how; "" for none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_halt_kills_it_at_once(kind: Kind, workspace: Path) -> None:
    halt = Halt()

    def when_it_runs() -> None:
        while not (workspace / "beat").exists():
            time.sleep(0.01)
        halt.set()

    thread = threading.Thread(target=when_it_runs)
    thread.start()
    result = Sandbox(kind=kind, write=[workspace]).run(
        ["sh", "-c", "(while :; do date > beat; sleep 0.05; done) & sleep 20"], halt=halt
    )
    thread.join()
    assert result.killed == "halt"
    assert result.seconds < 15
    _still(workspace / "beat")
    assert Sandbox(kind=kind).run(["sh", "-c", "echo ran"], halt=halt).stdout == ""  # a halt stays set


def test_it_dies_with_who_started_it(kind: Kind, workspace: Path) -> None:
    """A tool's process is killed without a chance to clean up (adk-python#2425)."""
    child = os.fork()
    if child == 0:
        Sandbox(kind=kind, write=[workspace]).run(
            ["sh", "-c", "(while :; do date > beat; sleep 0.05; done) & sleep 20"]
        )
        os._exit(0)
    while not (workspace / "beat").exists():
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    time.sleep(0.3)
    _still(workspace / "beat")


def test_a_flood_of_output_is_cut_in_the_middle(kind: Kind) -> None:
    script = "echo first; head -c 6000000 /dev/zero | tr '\\0' x; echo; echo last"
    result = Sandbox(kind=kind, bounds=Bounds(output=1000)).run(["sh", "-c", script])
    assert result.truncated
    assert result.stdout.startswith("first\nxxx")
    assert result.stdout.endswith("xxx\nlast\n")
    assert "[5,999,012 bytes left out]" in result.stdout
    assert len(result.stdout) < 1100


@needs_python
def test_memory_is_bound_for_one_process_and_for_all(kind: Kind) -> None:
    sandbox = Sandbox(kind=kind, bounds=Bounds(memory=128 * _MIB, seconds=20))
    one = sandbox.run(_python(f"x = bytearray({200 * _MIB}); print('held')"))
    assert "MemoryError" in one.stderr
    code = f"import os, time; os.fork(); os.fork(); x = bytearray(b'x') * {60 * _MIB}; time.sleep(9); print('held')"
    many = sandbox.run(_python(code))
    assert many.killed == "memory"
    assert "held" not in many.stdout


@needs_python
def test_processes_are_bound(kind: Kind) -> None:
    code = """
import os, time
for number in range(40):
    try:
        if os.fork() == 0: time.sleep(20)
    except BlockingIOError:
        break
print(number)
"""
    result = Sandbox(kind=kind, bounds=Bounds(processes=12, seconds=10)).run(_python(code))
    assert 4 <= int(result.stdout) <= 12


@needs_python
def test_files_and_the_disk_are_bound(kind: Kind, workspace: Path) -> None:
    sandbox = Sandbox(kind=kind, write=[workspace], bounds=Bounds(file_bytes=4 * _MIB, disk=24 * _MIB, seconds=20))
    one = sandbox.run(_python(f"open('big', 'wb').write(bytes({8 * _MIB}))"))
    assert "File too large" in one.stderr
    assert (workspace / "big").stat().st_size <= 4 * _MIB
    code = f"""
import os, time
held = []
for n in range(40):
    held.append(open('gone', 'wb', buffering=0)); os.unlink('gone')
    held[-1].write(os.urandom({3 * _MIB})); time.sleep(0.1)
print('held')
"""
    many = sandbox.run(_python(code))
    assert many.killed == "disk"
    assert "held" not in many.stdout


def test_no_setuid_file_can_be_left(kind: Kind, workspace: Path) -> None:
    Sandbox(kind=kind, write=[workspace]).run(["sh", "-c", "cp /bin/true mine; chmod 4755 mine; chmod g+s mine"])
    assert (workspace / "mine").stat().st_mode & 0o6000 == 0


def test_nothing_is_inherited(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "open").write_text("secret")
    with (tmp_path / "open").open() as file:
        os.set_inheritable(file.fileno(), True)
        result = Sandbox(kind=kind).run(["sh", "-c", f"cat <&{file.fileno()}"])
    assert "secret" not in result.stdout


@pytest.mark.parametrize("path", ["/", "/etc", "/proc/self", "/dev"])
def test_what_would_show_the_machine_cannot_be_named(kind: Kind, path: str) -> None:
    with pytest.raises(SandboxError, match="too much"):
        Sandbox(kind=kind, read=[path])


def test_what_cannot_be_run_as_asked_is_an_error(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="no such folder"):
        Sandbox(kind=kind, write=[tmp_path / "none"])
    with pytest.raises(SandboxError, match="null"):
        Sandbox(kind=kind).run(["echo", "\0"])
    result = Sandbox(kind=kind).run(["no-such-program"])
    assert result.status != 0
    assert "no-such-program" in result.stderr


def test_where_nothing_can_be_confined_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    none = Probe({"bubblewrap": "is not installed", "landlock": "is not enabled"})
    monkeypatch.setattr(module, "probe", lambda: none)
    with pytest.raises(SandboxError, match=r"nothing is run: bubblewrap: is not installed; landlock: is not enabled"):
        Sandbox()
    monkeypatch.setattr(module, "probe", lambda: Probe({"bubblewrap": "is not installed", "landlock": ""}))
    assert Sandbox().kind == "landlock"
    with pytest.raises(SandboxError, match="bubblewrap does not work here: is not installed"):
        Sandbox(kind="bubblewrap")
