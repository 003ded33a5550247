"""Shapes: the count that was asked for, and what a machine likes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.scaling.plan import build, size_of
from modelworks.scaling.shapes import count_parameters, shape_for


@pytest.mark.parametrize(("parameters", "vocabulary"), [(1e5, 256), (1e6, 1024), (1.35e8, 49_152), (7e9, 32_000)])
@pytest.mark.parametrize("without", [False, True])
def test_the_count_is_the_modules(parameters: float, vocabulary: int, without: bool) -> None:
    config = shape_for(parameters, vocabulary=vocabulary, context=512, without_embeddings=without)
    size = size_of(build(config))
    assert count_parameters(config) == size.total
    assert count_parameters(config, without_embeddings=True) == size.without_embeddings


@given(st.floats(5e5, 5e11), st.booleans())
def test_every_size_has_a_sensible_shape(parameters: float, without: bool) -> None:
    vocabulary = 1024 if parameters < 1e8 else 65_536
    config = shape_for(parameters, vocabulary=vocabulary, context=512, without_embeddings=without)
    counted = count_parameters(config, without_embeddings=without)
    assert counted == pytest.approx(parameters, rel=0.13)
    assert config["hidden_size"] == config["num_attention_heads"] * config["head_dim"]
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["intermediate_size"] % 32 == 0
    assert 2 <= config["num_hidden_layers"] <= 160
    assert 5 <= config["hidden_size"] / config["num_hidden_layers"] <= 160


def test_large_shapes_are_those_of_llama() -> None:
    """Near 70 billion: 80 layers, 8 key-value heads, as in Llama 2."""
    config = shape_for(7e10, vocabulary=32_000, context=4096)
    assert config["num_key_value_heads"] == 8
    assert 70 <= config["num_hidden_layers"] <= 90
    assert not config["tie_word_embeddings"]


def test_a_vocabulary_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="no sensible shape has 5e\\+04 parameters with a vocabulary of 50257"):
        shape_for(5e4, vocabulary=50_257, context=512)
