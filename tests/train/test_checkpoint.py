"""Checkpoints: whole or not at all, of this recipe and model or refused, and one run in a folder."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from modelworks.core.errors import ConfigError, TrainingError
from modelworks.train.checkpoint import Checkpoints, rng_state, seed_everything, set_rng_state

RECIPE = {"steps": 3, "optim": {"lr": 0.1}}


def state(value=0.0):
    return {"model": {"a": torch.full((3, 2), value), "b": torch.ones(2)}, "rng": rng_state(), "step": 1}


@pytest.fixture
def checkpoints(tmp_path):
    with Checkpoints(tmp_path / "run", keep=2) as opened:
        yield opened


def test_the_last_is_loaded_and_only_so_many_stay(checkpoints):
    assert checkpoints.load(recipe=RECIPE, model=state()["model"]) is None
    for step in (1, 2, 10):
        checkpoints.save(step, state(step), recipe=RECIPE)
    assert list(checkpoints.steps()) == [2, 10]
    loaded = checkpoints.load(recipe=RECIPE, model=state()["model"])
    assert torch.equal(loaded["model"]["a"], torch.full((3, 2), 10.0))


@pytest.mark.parametrize(
    ("recipe", "model", "says"),
    [
        ({"steps": 3, "optim": {"lr": 0.2}}, {}, "another recipe: optim.lr was 0.1 and is 0.2"),
        (RECIPE, {"b": torch.ones(3)}, r"another model: b was \[2\] and is \[3\]"),
        (RECIPE, {"c": torch.ones(3)}, r"another model: c was 'not there' and is \[3\]|c was not there"),
    ],
)
def test_another_recipe_or_model_is_named(checkpoints, recipe, model, says):
    checkpoints.save(1, state(), recipe=RECIPE)
    with pytest.raises(TrainingError, match=says):
        checkpoints.load(recipe=recipe, model=state()["model"] | model)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no state", "no description", "half a description"])
def test_one_that_is_damaged_is_refused(checkpoints, damage):
    path = checkpoints.save(1, state(), recipe=RECIPE)
    file, about = path / "state.pt", path / "checkpoint.json"
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[:-100])
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "no state":
        file.unlink()
    elif damage == "no description":
        about.unlink()
    else:
        about.write_text(about.read_text()[:50])
    with pytest.raises(TrainingError, match=r"remove .* to go on from the checkpoint before it"):
        checkpoints.load(recipe=RECIPE, model=state()["model"])


FULL_DISK = """
import resource, sys, torch
from modelworks.core.errors import TrainingError
from modelworks.train.checkpoint import Checkpoints
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, {"model": {"a": torch.ones(10)}}, recipe={})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        checkpoints.save(2, {"model": {"a": torch.ones(1_000_000)}}, recipe={})
    except TrainingError as error:
        print(error)
    assert list(checkpoints.steps()) == [1]
    assert checkpoints.load(recipe={}, model={"a": torch.ones(10)}) is not None
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files")
def test_a_full_disk_is_one_line_and_the_last_one_stays(tmp_path):
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, capture_output=True, text=True)
    assert "the checkpoint cannot be written" in run.stdout
    assert "that of step 1 stays" in run.stdout
    assert run.stdout.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.lock", "step-00000001"]


def test_two_runs_in_one_folder_are_refused(checkpoints):
    with pytest.raises(ConfigError, match="another run is using this folder"), Checkpoints(checkpoints.folder):
        pass


def test_what_a_killed_run_had_begun_is_removed(tmp_path):
    left = tmp_path / ".step-00000003.abc"
    left.mkdir()
    (left / "state.pt").write_bytes(b"half")
    with Checkpoints(tmp_path) as checkpoints:
        assert not left.exists()
        assert checkpoints.steps() == {}


def test_what_is_saved_is_read_without_running_code(checkpoints):
    path = checkpoints.save(1, state(), recipe=RECIPE)
    assert torch.load(path / "state.pt", weights_only=True)["step"] == 1
    assert json.loads((path / "checkpoint.json").read_text())["recipe"] == RECIPE


def test_every_generator_goes_on_from_its_state(checkpoints):
    def draw():
        return random.random(), random.gauss(), np.random.rand(), np.random.randn(), torch.rand(1), torch.randn(1)

    seed_everything(3)
    draw()
    checkpoints.save(1, state(), recipe=RECIPE)
    expected = draw()
    set_rng_state(checkpoints.load(recipe=RECIPE, model=state()["model"])["rng"])
    assert draw() == expected
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
