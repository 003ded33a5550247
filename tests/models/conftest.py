"""Tiny random models made by transformers, the oracle, in each family; and the starter model where it can be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modelworks.core.errors import DownloadError
from modelworks.models.fetch import pull

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # large enough that every part of the network shows in the logits
}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_LOCAL = {"rope_type": "default", "rope_theta": 10_000.0}
GPT2_SHAPE: dict[str, Any] = {"vocab_size": 97, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 6}
GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

# name: transformers' config class, and what differs from SHAPE.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-tied-biased": ("LlamaConfig", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama-multi-query": ("LlamaConfig", {"num_key_value_heads": 1, "head_dim": 16}),
    "llama-linear": ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}),
    "llama-dynamic": ("LlamaConfig", {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4}}),
    "llama-llama3": (
        "LlamaConfig",
        {"rope_parameters": _LLAMA3 | {"rope_theta": 5e5, "original_max_position_embeddings": 32}},
    ),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": _YARN | {"rope_theta": 1e4}}),
    "mistral": ("MistralConfig", {"sliding_window": 5}),
    "mistral-full": ("MistralConfig", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2-sliding": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": 5,
            "query_pre_attn_scalar": 24,
            "layer_types": GEMMA_LAYERS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": _LOCAL,
            },
        },
    ),
    "gpt2": ("GPT2Config", GPT2_SHAPE),
    "gpt2-untied": ("GPT2Config", GPT2_SHAPE | {"tie_word_embeddings": False, "n_inner": 64}),
}


def tiny_hf(name: str, **changes: Any) -> Any:
    """A transformers model of `FAMILIES`, its every parameter random, in float32 and evaluation mode."""
    import transformers

    config_class, differs = FAMILIES[name]
    shape = {"initializer_range": 0.3} if config_class == "GPT2Config" else SHAPE
    config = getattr(transformers, config_class)(**{**shape, **differs, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key or "ln_" in key or key.endswith("bias"):  # initialised to all ones or all zeros
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def hf_logits(model: Any, ids_BT: torch.Tensor, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(ids_BT, **more).logits


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return torch.randint(3, 97, (2, 13), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def hf_folder(tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """A transformers model and the folder that transformers saved it in."""

    def make(name: str, **changes: Any) -> tuple[Any, Path]:
        model = tiny_hf(name, **changes)
        folder = tmp_path / f"hf-{name}"
        model.save_pretrained(folder)
        return model, folder

    return make


@pytest.fixture(scope="session")
def starter() -> Path:
    try:
        return pull("starter")
    except DownloadError as error:
        pytest.skip(f"the starter model cannot be had: {error}")


@pytest.fixture(scope="session")
def starter_embedder() -> Path:
    try:
        return pull("starter-embedder")
    except DownloadError as error:
        pytest.skip(f"the starter embedder cannot be had: {error}")


class ListCache:
    """The plainest `KVCache`: concatenation. The engine's own is tested with the engine."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.length = 0

    def update(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if layer in self.layers:
            old_k, old_v = self.layers[layer]
            k, v = torch.cat((old_k, k), 2), torch.cat((old_v, v), 2)
        self.layers[layer] = k, v
        return k, v


@pytest.fixture
def list_cache() -> type[ListCache]:
    return ListCache
