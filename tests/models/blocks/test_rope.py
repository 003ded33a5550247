from __future__ import annotations

import math

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.models.blocks.rope import RopeConfig, rotary, rotate

LIMIT = 256
PARAMETERS = [
    {"rope_type": "default", "rope_theta": 1e4},
    {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
    {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64},
    {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
        "beta_fast": 16,
        "beta_slow": 2,
    },
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "attention_factor": 1.25},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda p: p["rope_type"])
@pytest.mark.parametrize("length", [10, 1000])
def test_angles_equal_transformers(parameters, length):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=256, num_attention_heads=4, max_position_embeddings=LIMIT, rope_parameters=dict(parameters)
    )
    positions_BT = torch.arange(length)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions_BT)
    rope = RopeConfig.from_hf(parameters, theta=1e4, max_position_embeddings=LIMIT)
    ours = rotary(rope, positions_BT, 64, torch.float32)
    for mine, theirs in zip(ours, (cos, sin), strict=True):
        torch.testing.assert_close(mine[:, 0], theirs, rtol=0, atol=1e-5 * max(1, length / 100))


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda p: p["rope_type"])
def test_written_parameters_read_back(parameters):
    rope = RopeConfig.from_hf(parameters, theta=1e4, max_position_embeddings=LIMIT)
    assert RopeConfig.from_hf(rope.to_hf(), theta=1.0, max_position_embeddings=LIMIT) == rope


def test_older_spelling_and_separate_theta():
    rope = RopeConfig.from_hf({"type": "linear", "factor": 2.0}, theta=777.0, max_position_embeddings=LIMIT)
    assert (rope.rope_type, rope.factor, rope.rope_theta) == ("linear", 2.0, 777.0)


def test_scores_depend_on_distance_only():
    """The property that the paper builds it for (eq. 16)."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)

    def score(query: int, key: int) -> float:
        turned_q = rotate(q, *rotary(RopeConfig(), torch.tensor([[query]]), 32, torch.float32))
        turned_k = rotate(k, *rotary(RopeConfig(), torch.tensor([[key]]), 32, torch.float32))
        return float((turned_q * turned_k).sum())

    assert math.isclose(score(7, 3), score(107, 103), abs_tol=1e-4)
    assert not math.isclose(score(7, 3), score(7, 4), abs_tol=1e-2)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"rope_type": "spiral"}, "'spiral'.*yarn"),
        ({"rope_type": "llama3"}, "needs a factor"),
        ({"rope_type": "linear", "factor": "two"}, "factor must be a number"),
        ({"rope_type": "linear", "factor": 0}, "no rotary frequency"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": "x"}, "original_max_position"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0}, "no rotary frequency"),
    ],
)
def test_bad_parameters_are_named(parameters, says):
    with pytest.raises(ConfigError, match=says):
        RopeConfig.from_hf(parameters, theta=1e4, max_position_embeddings=LIMIT)
