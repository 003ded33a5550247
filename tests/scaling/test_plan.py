"""Counts are the modules' own, FLOPs are torch's own, memory is what autograd keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.models.llama import Llama
from modelworks.scaling.plan import build, flops_per_token, memory_of, size_of

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
}
CONFIGS = {
    "llama": LLAMA,
    "llama, tied": LLAMA | {"tie_word_embeddings": True},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "gpt2": GPT2,
}


@pytest.fixture(params=CONFIGS, ids=str)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CONFIGS[request.param]


def real(config: dict[str, Any]) -> Any:
    model = build(config)
    return type(model)(model.config)


def test_counts_are_those_of_the_real_module(config: dict[str, Any]) -> None:
    model = real(config)
    size = size_of(build(config))
    assert size.total == size.active == sum(p.numel() for p in model.parameters())
    outside = [p for name, p in model.named_parameters() if "embed" in name or "wte" in name or "wpe" in name]
    outside += [p for name, p in model.named_parameters() if "lm_head" in name]
    assert size.embeddings == sum(p.numel() for p in outside)
    assert size.without_embeddings == size.total - size.embeddings


def test_the_sizes_of_gpt2_and_smollm2_are_the_published_ones() -> None:
    gpt2 = size_of(build({"model_type": "gpt2"}))
    assert gpt2.total == 124_439_808
    assert gpt2.without_embeddings == 85_056_000
    smol = LLAMA | {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }
    assert size_of(build(smol)).total == 134_515_008


def test_flops_are_those_that_torch_counts(config: dict[str, Any]) -> None:
    """Forward and backward, attention in full, as plain products: torch counts no fused attention on CPUs."""
    B, T = 2, 32
    model = real(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(B, T, dtype=torch.long)).sum().backward()
    masked = 12 * 3 * 64 * T / 2  # three layers, 64 wide: the half that torch computes and throws away
    assert counter.get_total_flops() / (B * T) == flops_per_token(model, T) + masked


def test_a_sliding_layer_sees_its_window() -> None:
    full = build(LLAMA | {"model_type": "mistral", "sliding_window": None})
    sliding = build(LLAMA | {"model_type": "mistral", "sliding_window": 16})
    seen = sum(min(at, 16) for at in range(128)) / 128  # nearly: of a window that is long or short, by half a token
    less = flops_per_token(full, 128) - flops_per_token(sliding, 128)
    assert less / (12 * 3 * 64) == pytest.approx(64 - seen, abs=0.5)


def test_what_is_not_trained_costs_less() -> None:
    model = build(CONFIGS["llama, tied"])
    whole = flops_per_token(model, 32)
    model.requires_grad_(False)
    assert whole - flops_per_token(model, 32) == 2 * size_of(model).multiplied


def test_activations_are_what_autograd_keeps(config: dict[str, Any]) -> None:
    model = real(config).train()
    kept: dict[int, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(torch.zeros(2, 32, dtype=torch.long), readout=lambda x_BTC, w_VC: x_BTC)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    expected = sum(x.untyped_storage().nbytes() for at, x in kept.items() if at not in weights)
    memory = memory_of(build(config), 2, 32)
    assert memory.activations == pytest.approx(expected, rel=0.01)
    assert memory.checkpointed < memory.activations / 2


def test_memory_of_states() -> None:
    model = build(CONFIGS["llama, tied"])
    size = size_of(model)
    hidden = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    by_name = {name: memory_of(model, 1, 8, optimizer=name) for name in ("adamw", "muon", "adamw8bit", "sgd")}
    assert by_name["adamw"].weights == by_name["adamw"].gradients == 4 * size.total
    assert by_name["adamw"].optimizer == 8 * size.total
    assert by_name["muon"].optimizer == 8 * (size.total - hidden) + 4 * hidden
    assert 2 * size.total < by_name["adamw8bit"].optimizer < 2.1 * size.total
    assert by_name["sgd"].optimizer == 0
    assert by_name["sgd"].logits == 2 * 4 * 8 * 300


def test_bfloat16_halves_most_activations() -> None:
    model = build(LLAMA)
    wide, narrow = (memory_of(model, 2, 64, dtype=dtype).activations for dtype in ("float32", "bfloat16"))
    assert wide is not None
    assert narrow is not None
    assert 0.4 * wide < narrow < 0.95 * wide


def test_a_large_model_takes_no_memory_to_plan() -> None:
    """70 billion parameters: 280 GB if any of it were real."""
    large = LLAMA | {
        "vocab_size": 32_000,
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    }
    model = build(large)
    assert size_of(model).total == 68_976_648_192
    assert isinstance(model, Llama)
    assert memory_of(model, 1, 128).activations > 1e9


def test_bad_requests_are_one_line() -> None:
    with pytest.raises(ConfigError, match="'lion' is unknown; there are adamw"):
        memory_of(build(LLAMA), 1, 8, optimizer="lion")
    with pytest.raises(ConfigError, match="256 tokens is beyond the model's 128"):
        memory_of(build(LLAMA), 1, 256)
    with pytest.raises(ConfigError, match="no causal language model"):
        build(BERT)
    with pytest.raises(ModelFileError, match="unknown architecture"):
        build({"model_type": "rnn"})
