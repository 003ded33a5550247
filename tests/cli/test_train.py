"""`modelworks train`: the folder on standard output, and faults in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from modelworks.data.shards import write_shards
from modelworks.text.tokenizer import Tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(tmp_path):
    """A recipe of three steps over a few texts of digits."""
    vocabulary = {token: index for index, token in enumerate("E0123456789")}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="E"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = Tokenizer(backend, eos_id=0)
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(tmp_path / "tokenizer")
    with write_shards(tmp_path / "digits", tokenizer) as writer:
        for number in range(100):
            writer.add([*tokenizer.encode(str(number) * 5), 0])
    shape = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = "\n".join(f"{name} = {value}" for name, value in shape.items())
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'kind = "pretrain"\nsteps = 3\nevaluate_every = 2\n[model]\ntokenizer = "{tmp_path}/tokenizer"\n'
        f'[model.config]\nmodel_type = "gpt2"\n{config}\n'
        f'[data]\nseq_len = 8\nbatch_size = 2\ntrain = {{"{tmp_path}/digits" = 1.0}}\nheld_out = "{tmp_path}/digits"\n'
    )
    return path


def test_it_trains_and_prints_where_the_model_is(run, recipe, tmp_path):
    done = run("train", recipe, "steps=4", "optim.lr=1e-2", "--out", tmp_path / "out")
    assert done.out == f"{tmp_path}/out/model\n"
    assert "step 2: loss" in done.err
    assert json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    assert (tmp_path / "out" / "model" / "config.json").exists()
    run("train", recipe, "--out", tmp_path / "out").assert_one_line_error("there is a run already; go on with --resume")
    again = run("train", recipe, "steps=4", "optim.lr=1e-2", "--out", tmp_path / "out", "--resume", "--quiet")
    assert (again.status, again.out, again.err) == (0, f"{tmp_path}/out/model\n", "")


def test_the_folder_is_named_after_the_recipe(run, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", recipe, "--quiet").out == "runs/tiny/model\n"


def test_a_fault_in_a_recipe_is_one_line(run, tmp_path):
    out = ("--out", tmp_path / "out")
    run("train", RECIPES / "sft.toml", "optim.learning_rat=1", *out).assert_one_line_error(
        "optim.learning_rat: unknown"
    )
    run("train", "gone.toml", *out).assert_one_line_error("gone.toml: No such file")
    run("train", RECIPES / "sft.toml", "steps", *out).assert_one_line_error("'steps' is no override")


def test_what_is_not_there_is_one_line_and_may_be_tried_again(run, recipe, tmp_path):
    for _ in range(2):
        done = run("train", recipe, 'data.held_out="nowhere"', "--out", tmp_path / "out")
        done.assert_one_line_error("nowhere: no tokenised data")
