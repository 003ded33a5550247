"""All that can be damaged or unsupported in an adapter's folder: each is refused in one line that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelworks.adapt.peft import CONFIG, WEIGHTS
from modelworks.adapt.read import read
from modelworks.core.errors import ModelFileError
from modelworks.models.llama import Llama, LlamaConfig

Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"


@pytest.fixture
def saved(tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path) -> Path:
    """A sound adapter, to be damaged."""
    folder = save_adapter(tmp_path / "adapter", tiny, targets=("q_proj", "up_proj"))
    assert len(read(folder, tiny).additions) == 6
    return folder


def refused(folder: Path, model: Llama, *parts: str) -> None:
    with pytest.raises(ModelFileError) as raised:
        read(folder, model)
    said = str(raised.value)
    assert "\n" not in said
    for part in (str(folder), *parts):
        assert part in said, said


def change(folder: Path, **config: Any) -> None:
    stated = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(stated | config))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"peft_type": None}, "peft_type None"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=['lm_head']"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts.up"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"something_of_a_later_peft": True}, "something_of_a_later_peft=True"),
        ({"r": 0}, "r must be a positive"),
        ({"r": "8"}, "r must be a positive"),
        ({"lora_alpha": "x"}, "lora_alpha must be a number"),
        ({"use_rslora": 1}, "use_rslora must be true or false"),
        ({"use_dora": "yes"}, "use_dora must be true or false"),
        ({"rank_pattern": [1]}, "rank_pattern must be an object"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern['q_proj']"),
        ({"rank_pattern": {"q_proj(": 4}}, "no regular expression"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern['q_proj']"),
        ({"target_modules": [1]}, "target_modules must be a list of str"),
        ({"target_modules": ["nothing"]}, "names no matrix"),
    ],
)
def test_what_a_config_may_not_ask_for(config: dict[str, Any], said: str, saved: Path, tiny: Llama) -> None:
    change(saved, **config)
    refused(saved, tiny, CONFIG, said)


def test_a_config_that_is_none(saved: Path, tiny: Llama) -> None:
    (saved / CONFIG).write_text("{")
    refused(saved, tiny, CONFIG, "not valid JSON")
    (saved / CONFIG).unlink()
    refused(saved, tiny, f"it has no {CONFIG}")


def test_no_such_place(tmp_path: Path, tiny: Llama) -> None:
    refused(tmp_path / "none", tiny, "no such file or folder", CONFIG)


def test_a_file_cut_off(saved: Path, tiny: Llama) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    for size in (0, 5, 200, len(whole) - 1):
        (saved / WEIGHTS).write_bytes(whole[:size])
        refused(saved, tiny, WEIGHTS, "damaged or cut short")


def test_no_weights(saved: Path, tiny: Llama) -> None:
    (saved / WEIGHTS).unlink()
    refused(saved, tiny, WEIGHTS, "missing")
    (saved / "adapter_model.bin").touch()
    refused(saved, tiny, "adapter_model.bin", "can run code")


def with_tensors(saved: Path, changed: dict[str, torch.Tensor | None]) -> None:
    tensors = {name: tensor for name, tensor in (load_file(saved / WEIGHTS) | changed).items() if tensor is not None}
    save_file(tensors, saved / WEIGHTS)


HEAD = "base_model.model.lm_head.lora_A.weight"
DORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
EMBEDDING = "base_model.model.model.embed_tokens.lora_embedding_A"
LATER = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
UNSTATED = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"
TWICE = "base_model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({Q.format("A"): torch.zeros(3, 48)}, (Q.format("A"), "(3, 48)", "expected (4, 48)", "rank is 4")),
        ({Q.format("A"): torch.zeros(4, 47)}, (Q.format("A"), "(4, 47)", "expected (4, 48)")),
        ({Q.format("B"): torch.zeros(4, 48)}, (Q.format("B"), "(4, 48)", "expected (48, 4)")),
        ({Q.format("B"): torch.zeros(48)}, (Q.format("B"), "(48,)", "expected (48, 4)")),
        ({Q.format("A"): torch.full((4, 48), torch.nan)}, (Q.format("A"), "not finite")),
        ({Q.format("B"): torch.full((48, 4), -torch.inf)}, (Q.format("B"), "not finite")),
        ({Q.format("B"): torch.full((48, 4), 1e300, dtype=torch.float64)}, (Q.format("B"), "not finite")),
        ({Q.format("A"): torch.zeros(4, 48, dtype=torch.int8)}, (Q.format("A"), "torch.int8")),
        ({Q.format("B"): None}, (Q.format("B"), "is missing, the other half of", Q.format("A"))),
        ({Q.format("A"): None}, (Q.format("A"), "is missing, the other half of", Q.format("B"))),
        ({Q.format("A"): None, Q.format("B"): None}, ("layers.1.self_attn.q_proj", "no tensors for it")),
        ({LATER: torch.zeros(4, 48)}, (LATER, "no place")),
        ({HEAD: torch.zeros(4, 48)}, (HEAD, "embedding or head is not supported")),
        ({EMBEDDING: torch.zeros(4, 97)}, (EMBEDDING, "no half of a LoRA matrix")),
        ({DORA: torch.zeros(48)}, (DORA, "no half of a LoRA matrix")),
        ({UNSTATED: torch.zeros(4, 48)}, (UNSTATED, "does not name layers.0.self_attn.k_proj")),
        ({TWICE: torch.zeros(4, 48)}, (TWICE, "the same half")),
    ],
)
def test_what_tensors_may_not_be(
    changed: dict[str, torch.Tensor | None], said: tuple[str, ...], saved: Path, tiny: Llama
) -> None:
    with_tensors(saved, changed)
    refused(saved, tiny, WEIGHTS, *said)


def test_no_tensors(saved: Path, tiny: Llama) -> None:
    save_file({}, saved / WEIGHTS)
    refused(saved, tiny, WEIGHTS, "empty")


def test_a_scale_beyond_all_numbers(saved: Path, tiny: Llama) -> None:
    change(saved, lora_alpha=1e39)
    refused(saved, tiny, WEIGHTS, "times its scale")


def test_dora_without_its_magnitudes(saved: Path, tiny: Llama) -> None:
    change(saved, use_dora=True)
    refused(saved, tiny, WEIGHTS, "lora_magnitude_vector is missing")
    tensors = load_file(saved / WEIGHTS)
    magnitudes = {
        f"{name.removesuffix('.lora_A.weight')}.lora_magnitude_vector": torch.ones(8)
        for name in tensors
        if "lora_A" in name
    }
    save_file(tensors | magnitudes, saved / WEIGHTS)
    refused(saved, tiny, WEIGHTS, "(8,)", "expected (80,)")


def test_an_adapter_of_another_model(saved: Path, shape: dict[str, Any]) -> None:
    shallow = Llama(LlamaConfig.from_hf({"model_type": "llama", **shape, "num_hidden_layers": 2}))
    refused(saved, shallow, "no place", "the model has no matrix layers.2")
    wide = Llama(LlamaConfig.from_hf({"model_type": "llama", **shape, "hidden_size": 96}))
    refused(saved, wide, "(4, 48)", "expected (4, 96)")
