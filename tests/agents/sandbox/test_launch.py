from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.agents.sandbox import launch
from modelworks.agents.sandbox.kinds import SandboxError
from modelworks.agents.sandbox.run import Sandbox


def test_it_imports_little_since_each_command_waits_for_it() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import launch; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(Path(launch.__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"json", "re", "typing", "pathlib", "subprocess", "enum", "modelworks"} & set(ran.stdout.split())


def test_a_users_threads_are_counted() -> None:
    mine = len(list(Path("/proc/self/task").iterdir()))
    assert launch.tasks_of(os.getuid()) >= mine
    assert launch.tasks_of(59_999) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="root's commands are what it is about")
def test_a_folder_that_roots_command_could_not_use_is_told(tmp_path: Path) -> None:
    try:
        sandbox = Sandbox(kind="landlock", write=[tmp_path])
    except SandboxError as error:
        pytest.skip(str(error))
    with pytest.raises(SandboxError, match=r"cannot be written by other users than root, .* chown it to 50000"):
        sandbox.run(["true"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root maps owners")
def test_folders_in_folders_are_mapped_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "mine").write_text("read")
    (tmp_path / "mine").chmod(0o600)
    try:
        sandbox = Sandbox(kind="bubblewrap", read=[tmp_path], write=[tmp_path / "in"])
    except SandboxError as error:
        pytest.skip(str(error))
    result = sandbox.run(["sh", "-c", f"cat {tmp_path}/mine; echo new > {tmp_path}/in/new; echo x > {tmp_path}/other"])
    assert result.stdout == "read"
    assert (tmp_path / "in" / "new").stat().st_uid == 0
    assert not (tmp_path / "other").exists()
