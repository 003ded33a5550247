"""Adapters that PEFT saved, computed here, and those saved here, computed by PEFT: outputs equal, config and all."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelworks.adapt import lora, peft
from modelworks.adapt.adapter import Applied
from modelworks.adapt.lora import LoraConfig
from modelworks.adapt.peft import CONFIG, WEIGHTS
from modelworks.adapt.read import read
from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.core.lineage import Lineage
from modelworks.models.llama import Llama
from modelworks.models.load import load

Pair = Callable[[str], tuple[Any, Any]]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"}),
        ("llama", {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]}),
        (
            "llama",
            {
                "r": 4,
                "lora_alpha": 6,
                "target_modules": ["k_proj", "v_proj", "gate_proj"],
                "rank_pattern": {"v_proj": 2, r"layers\.[01]\..*gate_proj": 7},
                "alpha_pattern": {"model.layers.2.self_attn.k_proj": 1},
            },
        ),
        ("llama", {"r": 3, "target_modules": ["o_proj", "up_proj"], "layers_to_transform": [0, 2]}),
        ("llama", {"r": 3, "target_modules": ["q_proj", "up_proj"], "exclude_modules": ["layers.1.mlp.up_proj"]}),
        ("llama", {"r": 3, "target_modules": r".*\.[02]\.self_attn\.[qv]_proj"}),
        ("llama", {"r": 4, "lora_alpha": 6, "use_dora": True, "target_modules": "all-linear"}),
        ("llama", {"r": 4, "use_dora": True, "use_rslora": True, "target_modules": ["q_proj", "o_proj"]}),
        ("qwen2", {"r": 5, "lora_alpha": 3, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
        ("qwen2", {"r": 5, "lora_alpha": 3, "use_dora": True, "target_modules": ["q_proj", "k_proj", "v_proj"]}),
        ("gpt2", {"r": 4, "lora_alpha": 2, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
        ("gpt2", {"r": 4, "use_dora": True, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    ],
)
def test_it_computes_what_peft_computes(
    family: str,
    settings: dict[str, Any],
    pair_of: Pair,
    peft_model: Callable[..., Any],
    ids_BT: torch.Tensor,
    assert_equal: Callable[..., None],
    tmp_path: Path,
) -> None:
    hf, ours = pair_of(family)
    hf, ours = copy.deepcopy(hf).double(), copy.deepcopy(ours).double()
    theirs = peft_model(hf, tmp_path, **settings).double()  # or it computes its part in float32
    adapter = read(tmp_path, ours)
    with torch.no_grad():
        expected, plain = theirs(ids_BT).logits, hf(ids_BT).logits
        if not settings.get("use_dora"):
            with Applied(ours, adapter.matrices()):
                assert_equal(ours(ids_BT), expected, times=20)  # in float32
        lora.attach(ours, adapter)
        assert_equal(ours(ids_BT), expected)
        assert float((expected - plain).abs().max()) > 0.1
        lora.remove(ours)
        assert_equal(ours(ids_BT), plain)


def test_a_model_without_weights_is_enough_to_read_for(
    pair_of: Pair, peft_model: Callable[..., Any], tmp_path: Path
) -> None:
    """As a GGUF file's is, which the native program computes."""
    hf, ours = pair_of("llama")
    peft_model(hf, tmp_path / "adapter", r=2, target_modules=["q_proj"])
    hf.save_pretrained(tmp_path / "model")
    weightless = load(tmp_path / "model", device="meta")
    assert read(tmp_path / "adapter", weightless).digest == read(tmp_path / "adapter", ours).digest


def test_half_precision_weights(pair_of: Pair, peft_model: Callable[..., Any], tmp_path: Path) -> None:
    hf, ours = pair_of("llama")
    peft_model(hf, tmp_path, r=2, target_modules=["q_proj"])
    exact = read(tmp_path, ours).additions["layers.1.self_attn.q_proj"]
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / WEIGHTS)
    found = read(tmp_path, ours).additions["layers.1.self_attn.q_proj"]
    assert found.a_rC.dtype == np.float32
    np.testing.assert_allclose(found.a_rC, exact.a_rC, rtol=2**-8)


# --- saved here -------------------------------------------------------------------------------------------------------


def stir(model: torch.nn.Module, seed: int = 3) -> None:
    """As if it had been trained: every trainable value moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                scale = 0.2 * parameter.abs().mean() if parameter.dim() == 1 else 0.2
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(
    ("family", "config", "fields"),
    [
        ("llama", {"rank": 4, "alpha": 6.0, "dropout": 0.1}, {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1}),
        (
            "llama",
            {"targets": ("q_proj", r"layers\.1\..*"), "rslora": True},
            {"use_rslora": True, "rank_pattern": {}},
        ),
        (
            "llama",
            {"targets": ("q_proj", "v_proj"), "rank_pattern": {r"1\..*v_proj": 3}, "alpha_pattern": {"q_proj": 2.5}},
            {"target_modules": {"q_proj", "v_proj"}, "rank_pattern": {"model.layers.1.self_attn.v_proj": 3}},
        ),
        ("llama", {"dora": True, "rank": 3}, {"use_dora": True}),
        ("llama", {"init": "pissa", "rank": 3, "alpha": 5.0}, {"r": 6, "lora_alpha": 10}),
        ("llama", {"init": "pissa", "rank": 3, "rslora": True}, {"r": 6, "use_rslora": True}),
        ("qwen2", {"rank": 2, "init": "gaussian"}, {"fan_in_fan_out": False}),
        ("gpt2", {"rank": 2, "dora": True}, {"fan_in_fan_out": True}),
    ],
)
def test_peft_computes_what_was_saved_here(
    family: str,
    config: dict[str, Any],
    fields: dict[str, Any],
    pair_of: Pair,
    ids_BT: torch.Tensor,
    assert_equal: Callable[..., None],
    tmp_path: Path,
) -> None:
    import peft as oracle

    hf, ours = (copy.deepcopy(each).double() for each in pair_of(family))
    torch.manual_seed(2)
    lora.apply(ours, LoraConfig(**config))
    stir(ours)
    peft.save(ours, tmp_path / "adapter")
    with torch.no_grad():
        found = ours(ids_BT)
        theirs = oracle.PeftModel.from_pretrained(hf, tmp_path / "adapter").eval().double()
        assert_equal(theirs(ids_BT).logits, found)
        for name, value in fields.items():
            assert getattr(theirs.peft_config["default"], name) == value
        lora.remove(ours)
        assert float((ours(ids_BT) - found).abs().max()) > 0.1
        lora.attach(ours, read(tmp_path / "adapter", ours))
        assert_equal(ours(ids_BT), found)
    peft.save(ours, tmp_path / "again")
    for name in (CONFIG, WEIGHTS):
        expected = (tmp_path / "adapter" / name).read_bytes()
        if name == CONFIG:  # dropout is training's, which reading does not set
            expected = expected.replace(b'"lora_dropout": 0.1', b'"lora_dropout": 0.0')
        assert (tmp_path / "again" / name).read_bytes() == expected


def test_saving_is_all_or_nothing(fresh: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora.apply(fresh, LoraConfig(rank=2))
    folder = peft.save(fresh, tmp_path / "adapter", lineage=Lineage(parents=("base",), seed=4))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert Lineage.read(folder).parents == ("base",)
    stir(fresh)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(peft, "save_file", full)
    with pytest.raises(ModelFileError, match=r"adapter: cannot be written: No space left"):
        peft.save(fresh, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_one_of_several_is_saved(fresh: Llama, tmp_path: Path) -> None:
    lora.apply(fresh, LoraConfig(rank=2), "one")
    lora.apply(fresh, LoraConfig(rank=5, targets=("v_proj",)), "two")
    stated = json.loads((peft.save(fresh, tmp_path / "two", "two") / CONFIG).read_text())
    assert (stated["r"], stated["target_modules"]) == (5, ["v_proj"])
    with pytest.raises(ConfigError, match="no adapter 'three' on the model; there are: one, two"):
        peft.save(fresh, tmp_path / "three", "three")
