"""`lora` and `qlora`: what a recipe comes to, trains and leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelworks.adapt import lora
from modelworks.adapt.packed import PackedLinear
from modelworks.adapt.read import read
from modelworks.core.errors import ConfigError
from modelworks.core.lineage import Lineage
from modelworks.models.load import load
from modelworks.models.save import save
from modelworks.train.run import METRICS, read_recipe, run


@pytest.fixture(scope="module")
def base(request, tmp_path_factory, workshop) -> Path:
    """A small model with the workshop's tokenizer."""
    root = request.config.rootpath
    recipe = read_recipe(
        root / "recipes/pretrain.toml",
        (
            f'model.tokenizer="{workshop}/tokenizer"',
            "model.config.hidden_size=64",
            "model.config.intermediate_size=96",
            "model.config.num_hidden_layers=2",
            "model.config.num_attention_heads=4",
            f'data.train={{"{workshop}/train" = 1.0}}',
        ),
    )
    return save(recipe.model.build(), tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def recipe_of(request, base, workshop):
    def make(kind, *more):
        file = request.config.rootpath / f"recipes/{kind}.toml"
        small = (
            "data.seq_len=32",
            "data.epochs=1",
            "accumulate=1",
            "evaluate_every=0",
            "save_every=0",
            "optim.lr=1e-2",
        )
        data = f'data.train={{"{workshop}/train" = 1.0}}'
        return read_recipe(file, (f'model.ref="{base}"', data, *small, "steps=12", *more))

    return make


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_the_recipe_as_it_ships_learns_an_adapter(kind, recipe_of, base, tmp_path):
    losses = []
    folder = run(
        recipe_of(kind, "save_every=6"), tmp_path / "run", watch=lambda record: losses.append(record.step.loss)
    )
    assert losses[-1] < losses[0]
    assert folder == tmp_path / "run/adapter"
    adapter = read(folder, load(base))
    assert len(adapter.additions) == 14
    assert {len(each.a_rC) for each in adapter.additions.values()} == {16}
    assert adapter.base == (None if kind == "lora" else "NF4")
    assert Lineage.read(folder).parents == (str(base),)
    assert Lineage.read(folder).recipe["kind"] == kind
    about = json.loads((tmp_path / "run" / METRICS).read_text().splitlines()[0])["run"]
    assert 0 < about["trainable"] < about["flops_per_token"] / 4


def test_frozen_weights_are_in_the_precision_of_the_run(recipe_of):
    for kind, packed in (("lora", 0), ("qlora", 14)):
        for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            model = recipe_of(kind, f"precision={precision}").build()
            assert {each.dtype for each in model.parameters() if not each.requires_grad} == {dtype}
            assert {each.dtype for each in model.parameters() if each.requires_grad} == {torch.float32}
            assert sum(isinstance(module, PackedLinear) for module in model.modules()) == packed


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_it_resumes_as_if_it_had_never_stopped(kind, recipe_of, base, tmp_path):
    """The checkpoint holds the adapter alone; with dropout, so that the generators count, too."""
    whole = run(recipe_of(kind, "lora.dropout=0.2"), tmp_path / "whole")
    half = recipe_of(kind, "lora.dropout=0.2", "save_every=5")
    with pytest.raises(InterruptedError):
        run(half, tmp_path / "half", watch=_stop_after(7))
    resumed = run(half, tmp_path / "half", resume=True)
    assert (resumed / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()


def _stop_after(steps):
    def watch(record):
        if record.step.step == steps:
            raise InterruptedError

    return watch


def test_settings_of_the_adapter(recipe_of):
    model = recipe_of(
        "lora", "lora.rank=3", 'lora.targets=["q_proj", "v_proj"]', "lora.rank_pattern={v_proj=5}"
    ).build()
    assert sorted(len(part.a_rC) for part in lora.parts_of(model).values()) == [3, 3, 5, 5]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('lora.targets=["query"]', r"'query' matches no matrix; the model has self_attn.q_proj \(2\)"),
        ("lora.rank=0", "rank must be a positive whole number"),
        ("lora.ranks=4", r"lora.ranks: unknown; did you mean rank"),
        ("lora.init=zeros", r"lora.init"),
        ("base=int3", "base"),
    ],
)
def test_what_is_no_adapter(override, said, recipe_of):
    with pytest.raises(ConfigError, match=said):
        recipe_of("qlora", override).build()


def test_a_folder_has_no_blocks_to_keep(recipe_of):
    with pytest.raises(Exception, match=r"not packed; only a .gguf file's can stay"):
        recipe_of("qlora", "base=stored").build()


def test_an_adapter_needs_a_model(recipe_of):
    recipe = recipe_of("lora")
    with pytest.raises(ConfigError, match=r"model.ref: missing"):
        replace(recipe, model=replace(recipe.model, ref=None)).build()
