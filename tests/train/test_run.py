"""Runs by recipe: what their folder holds, and that they go on."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from modelworks.core.config import read_values, resolve
from modelworks.core.errors import ConfigError, Stopped, TrainingError
from modelworks.core.lineage import Lineage
from modelworks.models.load import load
from modelworks.train.language import LanguageRecipe
from modelworks.train.run import KINDS, read_recipe, run

PRETRAIN = "recipes/pretrain.toml"


@pytest.fixture
def pretrain(overrides, request):
    def make(*more):
        return read_recipe(request.config.rootpath / PRETRAIN, overrides(*more))

    return make


def test_the_folder_holds_all_that_came_of_the_run(pretrain, tmp_path):
    seen = []
    model = run(pretrain(), tmp_path / "run", watch=seen.append)
    home = tmp_path / "run"
    assert model == home / "model"
    names = {path.name for path in home.iterdir()}
    assert names == {"metrics.jsonl", "model", "recipe.toml", "run.lock", "step-00000002", "step-00000004"}
    assert resolve(LanguageRecipe, read_values(home / "recipe.toml")) == pretrain()
    about, *lines = map(json.loads, (home / "metrics.jsonl").read_text().splitlines())
    assert about["run"]["kind"] == "pretrain"
    assert [line["step"] for line in lines] == [record.step.step for record in seen] == [1, 2, 3, 4]
    assert [sorted(line.get("evaluation", ())) for line in lines] == [[], ["loss", "samples"]] * 2
    loaded = load(model)
    assert loaded.tokenizer is not None
    lineage = Lineage.read(model)
    assert lineage.recipe["kind"] == "pretrain"
    assert lineage.seed == 0
    assert set(lineage.metrics) >= {"loss", "evaluation loss"}
    assert len(next(iter(lineage.data.values()))) == 64


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(pretrain, tmp_path):
    whole = run(pretrain(), tmp_path / "whole")

    def stop(record):
        if record.step.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="SIGTERM came after step 3 of 4"):
        run(pretrain(), tmp_path / "stopped", watch=stop)
    resumed = run(pretrain(), tmp_path / "stopped", resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    kept = ("step", "loss", "grad_norm", "lr", "total_tokens", "evaluation")
    told = [
        [{name: line.get(name) for name in kept} for line in map(json.loads, path.read_text().splitlines())]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "stopped" / "metrics.jsonl")
    ]
    assert told[0] == told[1]


def test_a_finished_run_is_saved_again_when_it_is_resumed(pretrain, tmp_path):
    first = (run(pretrain(), tmp_path) / "model.safetensors").read_bytes()
    assert (run(pretrain(), tmp_path, resume=True) / "model.safetensors").read_bytes() == first


def test_a_folder_with_a_run_is_refused_and_another_recipe_is_named(pretrain, tmp_path):
    run(pretrain(), tmp_path)
    with pytest.raises(ConfigError, match="there is a run already; go on with --resume"):
        run(pretrain(), tmp_path)
    with pytest.raises(TrainingError, match=r"another recipe: optim.lr was 0.003 and is 0.1"):
        run(pretrain("optim.lr=0.1"), tmp_path, resume=True)
    with pytest.raises(TrainingError, match=r"another recipe: model.config.hidden_size was 16 and is 32"):
        run(pretrain("model.config.hidden_size=32"), tmp_path, resume=True)


def test_steps_may_be_left_to_the_data(pretrain, tmp_path):
    run(pretrain("steps=0", "data.epochs=1", "evaluate_every=0"), tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["steps"] == last["step"] == len(lines) - 1
    with pytest.raises(ConfigError, match="steps is 0, but the data has no end"):
        run(pretrain("steps=0"), tmp_path / "endless")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "kind is None; there are pretrain, sft"),
        ('kind = "pretrian"', "kind is 'pretrian'; there are"),
        ('kind = "sft"\noptim.learning_rate = 1', r"r.toml: optim.learning_rate: unknown; there are .*lr"),
    ],
)
def test_a_recipe_with_faults_names_file_and_path(tmp_path, text, says):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_recipe(tmp_path / "r.toml")


def test_every_kind_is_there(request):
    for kind in KINDS:
        recipe = read_recipe(request.config.rootpath / "recipes" / f"{kind}.toml")
        assert recipe.kind == kind


def test_the_seed_decides_the_weights(pretrain, tmp_path):
    weights = [load(run(pretrain(f"seed={seed}"), tmp_path / str(at))) for at, seed in enumerate((1, 1, 2))]
    first, same, other = (model.model.norm.weight for model in weights)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
