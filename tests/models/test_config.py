"""The readers of `config.json` meet any JSON at all."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.models.config import check_flags, check_numbers, check_sizes, object_in, token_ids
from modelworks.models.registry import family_of

VALID = {
    "llama": {
        "model_type": "llama",
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "attention_factor": 1.0},
        "attention_bias": True,
        "eos_token_id": [1, 2],
    },
    "qwen2": {
        "model_type": "qwen2",
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        "rope_theta": 1e6,
    },
    "gemma3": {
        "model_type": "gemma3",
        "text_config": {"num_hidden_layers": 7, "sliding_window_pattern": 3, "rope_scaling": {"factor": 8.0}},
    },
    "gpt2": {"model_type": "gpt2", "n_layer": 2, "n_inner": None, "eos_token_id": 3, "attn_pdrop": 0.0},
    "bert": {
        "model_type": "bert",
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "layer_norm_eps": 1e-12,
    },
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.floats() | st.sampled_from(["", "default", "gelu", "linear"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["factor", "rope_type"]), inner),
    max_leaves=4,
)


@pytest.mark.parametrize("name", VALID)
def test_a_valid_config_reads_and_its_written_form_reads_back(name):
    family = family_of(VALID[name])
    config = family.config.from_hf(VALID[name])
    assert family.config.from_hf(config.to_hf()) == config


@given(data=st.data())
@pytest.mark.parametrize("name", VALID)
def test_any_other_json_builds_or_is_refused(name, data):
    config = {**VALID[name]}
    inner = config["text_config"] = {**config["text_config"]} if "text_config" in config else config
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(set(inner) | {"rope_parameters", "layer_types", "hidden_act"})))
        inner[key] = data.draw(JSON)
    with contextlib.suppress(ConfigError, ModelFileError), torch.device("meta"):
        family = family_of(config)
        read = family.config.from_hf(config)
        family.build(read)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "3", None, 2**31])
def test_sizes(value):
    with pytest.raises(ConfigError, match="width must be a positive whole number"):
        check_sizes({"width": value}, ["width"])
    check_sizes({"width": 3}, ["width"])


@pytest.mark.parametrize("value", [-1, True, float("nan"), float("inf"), "3", None])
def test_numbers(value):
    with pytest.raises(ConfigError, match="eps must be a number"):
        check_numbers({"eps": value}, ["eps"])
    check_numbers({"eps": 0}, ["eps"])


def test_flags_and_objects():
    with pytest.raises(ConfigError, match="tied must be true or false, got 1"):
        check_flags({"tied": 1}, ["tied"])
    with pytest.raises(ConfigError, match="rope must be an object"):
        object_in({"rope": [1]}, "rope")
    assert object_in({"rope": None}, "rope") == {}


def test_token_ids():
    assert (token_ids(None), token_ids(3), token_ids([3, 4])) == (None, 3, (3, 4))
    for bad in ("3", [], [True], 1.0, ["a"]):
        with pytest.raises(ConfigError, match="token id"):
            token_ids(bad)
