"""`dpo`, `kto` and `reward`: what their recipes come to, train, measure and leave behind."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modelworks.adapt import lora
from modelworks.core.errors import ConfigError, DataError
from modelworks.models.load import load
from modelworks.models.reward import RewardModel
from modelworks.models.save import save
from modelworks.train.run import METRICS, read_recipe, run


@pytest.fixture(scope="module")
def base(request, tmp_path_factory, workshop) -> Path:
    """A small model with the workshop's tokenizer."""
    recipe = read_recipe(
        request.config.rootpath / "recipes/pretrain.toml",
        (
            f'model.tokenizer="{workshop}/tokenizer"',
            "model.config.hidden_size=32",
            "model.config.intermediate_size=48",
            "model.config.num_hidden_layers=2",
            "model.config.num_attention_heads=4",
            "model.config.num_key_value_heads=2",
            f'data.train={{"{workshop}/train" = 1.0}}',
        ),
    )
    torch.manual_seed(0)
    return save(recipe.model.build(), tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Pairs of which the good answer repeats the prompt's letter, and the same as ratings; some held out."""
    home = tmp_path_factory.mktemp("pairs")
    letters = "abcdefghijklmnopqrst"
    pairs = [
        {"prompt": f"Say {letter}: ", "chosen": letter * (1 + at % 3), "rejected": letters[at % 20 - 7] * (1 + at % 2)}
        for at, letter in enumerate(letters * 2)
    ]
    rated = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    for name, rows in (("train", pairs[:32]), ("held", pairs[32:]), ("rated", rated)):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


@pytest.fixture
def recipe_of(request, base, files, tmp_path):
    def make(kind, *more):
        train = "rated" if kind == "kto" else "train"
        return read_recipe(
            request.config.rootpath / f"recipes/{kind}.toml",
            (
                f'model.ref="{base}"',
                f'data.train=["{files}/{train}.jsonl"]',
                f'cache="{tmp_path}/reference"',
                "data.max_length=64",
                "data.batch_size=8",
                "data.epochs=10",
                "optim.lr=1e-2",
                "evaluate_every=0",
                "save_every=0",
                *more,
            ),
        )

    return make


@pytest.mark.parametrize("loss", ["dpo", "ipo", "robust smoothing=0.1", "hinge", "orpo", "simpo beta=2.0"])
def test_the_recipe_as_it_ships_learns_what_is_preferred(loss, recipe_of, files, tmp_path):
    options = f"loss={loss}".split()
    recipe = recipe_of("dpo", *options, f'data.held_out=["{files}/held.jsonl"]', "evaluate_every=40")
    records = []
    folder = run(recipe, tmp_path / "run", watch=lambda record: records.append(record.step))
    assert folder == tmp_path / "run/adapter"
    assert len(records) == 40
    assert records[-1].metrics["accuracy"] > 0.8
    assert records[-1].metrics["reward_margin"] > records[0].metrics["reward_margin"]
    held = records[-1].evaluation
    assert {"loss", "accuracy", "reward_margin", "nll"} <= set(held)
    assert held["accuracy"] > 0.6


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_first_loss_is_log_2_whatever_the_dropout(precision, layout, recipe_of, tmp_path):
    """trl#744."""
    recipe = recipe_of("dpo", "lora.dropout=0.1", f"precision={precision}", f"data.layout={layout}", "steps=1")
    records = []
    run(recipe, tmp_path / "run", watch=lambda record: records.append(record.step))
    assert records[0].loss == pytest.approx(math.log(2), abs=1e-3 if precision == "bf16" else 1e-6)


def test_kto_learns_from_ratings(recipe_of, tmp_path):
    records = []
    run(recipe_of("kto", "beta=0.5"), tmp_path / "run", watch=lambda record: records.append(record.step))
    assert records[0].loss == pytest.approx(0.5, abs=5e-3)

    def mean(name):
        return sum(record.metrics[name] for record in records[-10:]) / 10

    assert mean("reward_good") > mean("reward_bad") + 0.1
    assert sum(record.loss for record in records[-10:]) / 10 < 0.48


def test_a_reward_model_is_left_whole_though_an_adapter_was_trained(recipe_of, files, tmp_path):
    recipe = recipe_of("reward", f'data.held_out=["{files}/held.jsonl"]', "evaluate_every=40", "data.epochs=20")
    records = []
    folder = run(recipe, tmp_path / "run", watch=lambda record: records.append(record.step))
    assert folder == tmp_path / "run/model"
    assert records[0].loss == pytest.approx(math.log(2), abs=1e-3)
    assert records[-1].metrics["accuracy"] > 0.7
    assert {"loss", "accuracy", "reward_margin"} <= set(records[-1].evaluation)
    model = load(folder, kind=RewardModel)
    assert not lora.adapted(model)
    rows = [json.loads(line) for line in (files / "train.jsonl").read_text().splitlines()]
    ids = [[*model.tokenizer.encode(row["prompt"] + row[side]), 0] for row in rows for side in ("chosen", "rejected")]
    rewards = model.rewards(ids)
    assert (rewards[::2] > rewards[1::2]).float().mean() > 0.7


@pytest.mark.parametrize("kind", ["dpo", "kto", "reward"])
def test_all_weights_can_be_trained_and_a_run_resumes_as_if_it_had_never_stopped(kind, recipe_of, base, tmp_path):
    def recipe(*more):
        found = recipe_of(kind, "steps=8", "precision=fp32", *more)
        return type(found)(**{**vars(found), "lora": None})

    whole = run(recipe(), tmp_path / "whole")

    def stop(record):
        if record.step.step == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(recipe("save_every=4"), tmp_path / "half", watch=stop)
    again = run(recipe("save_every=4"), tmp_path / "half", resume=True)
    first, second = load(whole).state_dict(), load(again).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    start = load(base).state_dict()
    now = {name.removeprefix("body."): value for name, value in first.items()}
    assert all(not torch.equal(start[name], now[name]) for name in start if name in now)


def test_what_cannot_be_trained_is_named(recipe_of, files, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.max_length is 100000"):
        recipe_of("dpo", "data.max_length=100000").prepare()
    with pytest.raises(ConfigError, match="beta is 0"):
        recipe_of("dpo", "beta=0.0")
    with pytest.raises(DataError, match="no such file"):
        recipe_of("kto", f'data.train=["{files}/none.jsonl"]').prepare()
    empty = recipe_of("dpo")
    with pytest.raises(ConfigError, match="nf4"):
        type(empty)(**{**vars(empty), "lora": None, "base": "nf4"}).prepare()


def test_what_is_left_out_is_said(recipe_of, tmp_path, capsys):
    rows = [{"prompt": "Say: ", "chosen": "x", "rejected": "x"}, {"prompt": "Say: ", "chosen": "x", "rejected": "y"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe_of("dpo", f'data.train=["{tmp_path}/pairs.jsonl"]').prepare()
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 2 left out: both completions are the same" in said
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: both completions are the same"):
        recipe_of("dpo", f'data.train=["{tmp_path}/pairs.jsonl"]', "data.strict=true").prepare()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_two_ranks_equal_one(kind, base, files, tmp_path):
    """KTO's z, too, is of the rows of all ranks."""
    data = "rated" if kind == "kto" else "train"
    (tmp_path / "recipe.toml").write_text(
        f'kind = "{kind}"\nsteps = 4\n[model]\nref = "{base}"\n[data]\ntrain = ["{files}/{data}.jsonl"]\n'
        "max_length = 64\n[optim]\nlr = 1e-3\neps = 1e-3\n"
    )
    for ranks in (1, 2):
        launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
        command = [sys.executable, "-m", *launch, "modelworks", "train", str(tmp_path / "recipe.toml"), "--quiet"]
        overrides = [f"data.batch_size={8 // ranks}", f"cache={tmp_path}/reference-{ranks}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *overrides, "--out", str(tmp_path / str(ranks))], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load(tmp_path / str(ranks) / "model").state_dict() for ranks in (1, 2))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / str(ranks) / METRICS).read_text().splitlines()[1:]]
        for ranks in (1, 2)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0][0] != losses[0][-1]
