from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.core.errors import ConfigError
from modelworks.data import parts, runners
from modelworks.data.prepare import Preparation, prepare


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
    from modelworks.data.sources import find_files

    found, _ = find_files([folder])
    with pytest.raises(OSError):
        runners.run_local(worker, list(parts.split(found)), 2, lambda done=1, *, note=None: None)


def test_without_ray_it_says_what_to_install(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
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
