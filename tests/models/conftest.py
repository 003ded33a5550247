"""Tiny random models made by transformers, the oracle, in each family; and the starter model where it can be had."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from modelworks.core.errors import DownloadError
from modelworks.models.fetch import pull
from modelworks.models.load import load

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
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
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
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "sliding_window": 5}),
    "qwen2-moe": ("Qwen2MoeConfig", {**_EXPERTS, "mlp_only_layers": [1], "shared_expert_intermediate_size": 40}),
    "qwen3-moe": ("Qwen3MoeConfig", {**_EXPERTS, "head_dim": 16, "norm_topk_prob": True}),
    "dots1": (
        "Dots1Config",
        {
            "n_routed_experts": 6,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.5,
            "norm_topk_prob": True,
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
            elif "mlp.gate.weight" in key:  # some are initialised to all zeros
                parameter.normal_(std=0.3)
        for key, buffer in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.3)
    return model.eval()


@dataclass(frozen=True)
class Pair:
    """The same weights as transformers' model and as ours, and the folder that both read."""

    hf: Any
    ours: Any
    folder: Path

    def hf_logits(self, ids_BT: torch.Tensor, **more: Any) -> torch.Tensor:
        with torch.no_grad():
            return self.hf(ids_BT, **more).logits


_pairs: dict[str, Pair] = {}


def _pair(name: str, root: pytest.TempPathFactory) -> Pair:
    if name not in _pairs:
        hf, folder = tiny_hf(name), root.mktemp(name)
        hf.save_pretrained(folder)
        _pairs[name] = Pair(hf, load(folder), folder)
    return _pairs[name]


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Each family in turn."""
    return _pair(request.param, tmp_path_factory)


@pytest.fixture
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """One family by name."""
    return lambda name: _pair(name, tmp_path_factory)


@pytest.fixture
def make_hf() -> Callable[..., Any]:
    return tiny_hf


# GGUF's names for parts of a layer (llama.cpp: gguf-py/gguf/constants.py), by Hugging Face's.
_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def _permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to Llama's q and k."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, hf: Any, *, matrices: str = "F32", metadata: dict[str, Any] | None = None) -> Path:
    """A transformers model as llama.cpp's converter would write it, its matrices quantised to one type."""
    config = hf.config
    arch = {"gemma3_text": "gemma3", "mistral": "llama"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if arch == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        rope = config.rope_parameters.get("full_attention", config.rope_parameters)
        writer.add_rope_freq_base(rope["rope_theta"])
        if getattr(config, "head_dim", None):
            writer.add_key_length(config.head_dim)
        if rope["rope_type"] in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            writer.add_rope_scaling_factor(rope["factor"])
        if "original_max_position_embeddings" in rope:
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if arch == "gemma3":
            writer.add_sliding_window(config.sliding_window)
    for key, value in (metadata or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    names = _GGUF_NAMES | (_GEMMA_NAMES if arch == "gemma3" else {})
    quantised = gguf.GGMLQuantizationType[matrices]
    for name, tensor in hf.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        inner, _, kind = name.rpartition(".")
        layer = re.match(r"(?:model\.layers|transformer\.h)\.(\d+)\.(.*)", inner)
        stored = f"blk.{layer[1]}.{names[layer[2]]}.{kind}" if layer else f"{names[inner]}.{kind}"
        values = tensor.float().numpy()
        if arch == "llama" and ".attn_q." in stored:
            values = _permuted(values, config.num_attention_heads)
        if arch == "llama" and ".attn_k." in stored:
            values = _permuted(values, config.num_key_value_heads)
        if arch == "gemma3" and stored.endswith("norm.weight"):
            values = values + 1
        if arch == "gpt2" and layer and values.ndim == 2:
            values = values.T
        values = np.ascontiguousarray(values)
        if values.ndim == 1 or matrices == "F32":
            writer.add_tensor(stored, values)
        else:
            writer.add_tensor(stored, gguf.quants.quantize(values, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def to_gguf(tmp_path: Path) -> Callable[..., Path]:
    return lambda hf, **more: write_gguf(tmp_path / "tiny.gguf", hf, **more)


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return torch.randint(3, 97, (2, 13), generator=torch.Generator().manual_seed(1))


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

    def __init__(self, num_layers: int) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * num_layers

    @property
    def length(self) -> int:
        return min(0 if held is None else held[0].shape[2] for held in self.layers)

    def update(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if (held := self.layers[layer]) is not None:
            k, v = torch.cat((held[0], k), 2), torch.cat((held[1], v), 2)
        self.layers[layer] = k, v
        return k, v


@pytest.fixture
def make_cache() -> Callable[[Any], ListCache]:
    return lambda model: ListCache(model.config.num_hidden_layers)
