from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.agents.sandbox import watch as module
from modelworks.agents.sandbox.kinds import Bounds, Started
from modelworks.agents.sandbox.watch import Result, watch


def _plain(code: str, *, folder: Path | None = None, **bounds: float) -> Result:
    """Watched without being confined: what is watched here does not depend on how."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started = Started(process, process.pid, [str(folder)] if folder else [])
    return watch(started, Bounds(**bounds))  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [0, 1, 7, 10, 11, 100])
def test_the_first_and_the_last_bytes_are_kept(most: int) -> None:
    text = "abcdefghij"
    result = _plain(f"import os\nfor c in {text!r}: os.write(1, c.encode())", output=most)
    if most >= len(text):
        assert (result.stdout, result.truncated) == (text, False)
        return
    first, last = most - most // 2, most // 2
    assert result.truncated
    assert result.stdout == f"{text[:first]}\n[{10 - most} bytes left out]\n{text[10 - last :]}"


def test_status_is_as_a_shell_has_it() -> None:
    assert _plain("raise SystemExit(3)").status == 3
    assert _plain("import os; os.kill(os.getpid(), 15)").status == 128 + 15


def test_who_holds_the_pipe_open_does_not_hold_up_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DRAIN", 0.1)
    holder = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    )
    result = _plain(holder)
    os.kill(int(result.stdout), 9)
    assert result.seconds < 30
    assert result.status == 0


def test_shared_memory_is_counted_once() -> None:
    code = "import os, time; x = bytearray(b'x') * (96 << 20); os.fork() or time.sleep(2); time.sleep(0.6)"
    assert _plain(code, memory=160 << 20).killed == ""


def test_a_full_disk_is_blamed_on_who_filled_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others write, too, the disk gets fuller, and the command did nothing."""
    used = iter(range(0, 1 << 60, 1 << 40))
    monkeypatch.setattr(module._Disk, "_used", staticmethod(lambda folder: (next(used), 0)))
    assert _plain("import time; time.sleep(0.4)", folder=tmp_path, disk=1 << 20).killed == ""
    code = f"import time; open({str(tmp_path / 'big')!r}, 'wb').write(bytes(4 << 20)); time.sleep(20)"
    assert _plain(code, folder=tmp_path, disk=1 << 20).killed == "disk"
