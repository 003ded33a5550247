"""The presets' sizes are those of their modules, where a family is here."""

from __future__ import annotations

import pytest

from modelworks.scaling.plan import build, size_of
from modelworks.scaling.presets import PRESETS

# Width, perceptron, layers, heads, key-value heads, vocabulary.
LLAMAS = {
    "llama-7b": (4096, 11_008, 32, 32, 32, 32_000),
    "llama-13b": (5120, 13_824, 40, 40, 40, 32_000),
    "llama-33b": (6656, 17_920, 60, 52, 52, 32_000),
    "llama-65b": (8192, 22_016, 80, 64, 64, 32_000),
    "llama2-70b": (8192, 28_672, 80, 64, 8, 32_000),
    "llama3-8b": (4096, 14_336, 32, 32, 8, 128_256),
    "llama3-70b": (8192, 28_672, 80, 64, 8, 128_256),
    "llama3.1-405b": (16_384, 53_248, 126, 128, 8, 128_256),
}


@pytest.mark.parametrize("name", LLAMAS)
def test_a_llama_has_its_modules_parameters(name: str) -> None:
    width, inner, layers, heads, groups, vocabulary = LLAMAS[name]
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
    }
    size = size_of(build(config))
    assert (size.total, size.embeddings) == (PRESETS[name].parameters, PRESETS[name].embeddings)


def test_gpt3_is_a_large_gpt2() -> None:
    size = size_of(build({"model_type": "gpt2", "n_embd": 12_288, "n_layer": 96, "n_head": 96, "n_positions": 2048}))
    assert (size.total, size.embeddings) == (PRESETS["gpt-3"].parameters, PRESETS["gpt-3"].embeddings)


@pytest.mark.parametrize(("name", "flops"), [("gpt-3", 3.14e23), ("palm", 2.53e24), ("llama3.1-405b", 3.8e25)])
def test_six_n_d_is_the_published_compute(name: str, flops: float) -> None:
    preset = PRESETS[name]
    assert 6 * preset.parameters * preset.tokens == pytest.approx(flops, rel=0.03)
