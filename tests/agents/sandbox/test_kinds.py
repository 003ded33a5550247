from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelworks.agents.sandbox import kinds
from modelworks.agents.sandbox.kinds import Bounds, Kind, Launch, SandboxError, start
from modelworks.agents.sandbox.run import Sandbox
from modelworks.agents.sandbox.watch import watch


def test_a_missing_bubblewrap_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds.shutil, "which", lambda name, path=None: None)
    with pytest.raises(SandboxError, match=r"not installed \(on Debian: apt-get install bubblewrap\)"):
        start("bubblewrap", Launch(["true"]))


def test_roots_commands_are_a_user_whom_nobody_is_or_the_folders_owner(tmp_path: Path) -> None:
    assert kinds._uid([str(tmp_path)]) in kinds.UIDS
    if os.geteuid() == 0:
        os.chown(tmp_path, 50_007, 50_007)
        assert kinds._uid(["/", str(tmp_path)]) == 50_007


def test_input_cannot_be_written_to() -> None:
    file = kinds._sealed(b"given")
    assert os.read(file, 10) == b"given"
    with pytest.raises(OSError, match="Operation not permitted"):
        os.write(file, b"more")
    os.close(file)


def test_limits_are_those_of_the_bounds(kind: Kind) -> None:
    bounds = Bounds(cpu_seconds=7, memory=256 << 20, file_bytes=1 << 20, open_files=99)
    script = "ulimit -t; ulimit -v; ulimit -f; ulimit -n; ulimit -c; ulimit -Ht; ulimit -Hv"
    result = watch(start(kind, Launch(["/bin/sh", "-c", script], bounds=bounds)), bounds)
    assert result.stdout.split() == ["7", str(256 << 10), str(2048), "99", "0", "7", str(256 << 10)]


def test_descriptors_and_temporary_folders_are_given_back(
    kind: Kind, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds.tempfile, "tempdir", str(reachable))
    before = len(list(Path("/proc/self/fd").iterdir()))
    Sandbox(kind=kind).run(["true"])
    with pytest.raises(SandboxError, match="not there any more"):
        start(kind, Launch(["true"], read=[str(reachable / "none")], write=[str(reachable / "none")]))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(reachable.iterdir()) == []


def test_other_systems_than_linux_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds.sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="only Linux"):
        start("landlock", Launch(["true"]))
