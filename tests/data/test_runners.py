from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.data import parts, runners
from modelworks.data.prepare import Preparation, prepare
from modelworks.data.sources import find_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    for at in range(4):
        rows = [{"text": f"text {at % 3} {row} " + "word " * row} for row in range(30)]
        (root / f"{at}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_an_error_in_a_process_of_the_pool_is_told_as_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_PART_FILES", 2)
    evaluation = tmp_path / "eval.jsonl"
    evaluation.write_text('{"q": "one two three four five six seven eight nine ten"}')
    (tmp_path / "out").mkdir()
    # The parts' folder is there, but cannot be written into: its name is taken by a file.
    worker = parts.Worker(Preparation(evaluations=(str(evaluation),)), tmp_path / "file" / "inside")
    (tmp_path / "file").write_text("")
    found, _ = find_files([folder])
    with pytest.raises(OSError):
        runners.run_local(worker, list(parts.split(found)), 2, lambda done=1, *, note=None: None)


def test_a_worker_that_is_killed_is_told_and_ends_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_PART_FILES", 1)
    monkeypatch.setattr(runners, "_do", _die)
    with pytest.raises(ModelworksError, match="a worker was killed, mostly since memory ran out"):
        prepare([folder], tmp_path / "out", workers=2, quiet=True)


def _die(part: parts.Part) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_ctrl_c_ends_all_processes_and_says_so_in_one_line(folder: Path, tmp_path: Path) -> None:
    for at in range(4):  # a few seconds each
        rows = [{"text": f"{at} {row} " + " ".join(str(row * word) for word in range(3000))} for row in range(400)]
        (folder / f"{at}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = "from modelworks.data import parts; parts._PART_FILES = 1; from modelworks.cli import main; main()"
    command = [sys.executable, "-c", code, "corpus", str(folder), "--out", str(tmp_path / "out"), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list((tmp_path / ".out.parts").glob(".*")):  # a worker is writing a part
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said) == (130, "modelworks: stopped\n")
    for _ in range(3000):  # multiprocessing's own helper ends a little after its parent
        if not _alive(process.pid):
            break
        time.sleep(0.01)
    assert not _alive(process.pid)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_ray_it_says_what_to_install(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray Data needs ray.*: pip install 'modelworks\[ray\]'"):
        prepare([folder], tmp_path / "out", runner="ray", quiet=True)


@pytest.mark.slow
def test_on_ray_the_corpus_is_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    monkeypatch.setattr(parts, "_PART_FILES", 1)
    recipe = Preparation(filters=())
    prepare([folder], tmp_path / "local", recipe, quiet=True)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        prepare([folder], tmp_path / "ray", recipe, workers=2, runner="ray", quiet=True)
    finally:
        ray.shutdown()
    for path in (tmp_path / "local").iterdir():
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes(), path.name
