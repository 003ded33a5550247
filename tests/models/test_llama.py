"""Reading and writing configs of the Llama family; logits are in test_base.py, for every family at once."""

from __future__ import annotations

import math

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.models.llama import ARCHITECTURES, FULL, SLIDING, Llama, LlamaConfig

TINY = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
}


def read(**config):
    return LlamaConfig.from_hf({"model_type": "llama", **TINY, **config})


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_a_config_leaves_out_is_transformers_default(model_type):
    import transformers

    ours = LlamaConfig.from_hf({"model_type": model_type, **TINY, "num_key_value_heads": 2})
    theirs = transformers.AutoConfig.for_model(model_type, **TINY, num_key_value_heads=2)
    for name in ("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 48 // 6)
    if (kinds := getattr(theirs, "layer_types", None)) is not None:
        assert list(ours.layer_types) == kinds
    if SLIDING in ours.layer_types:
        assert ours.sliding_window == theirs.sliding_window
    rope = theirs.rope_parameters
    assert ours.rope[FULL].rope_theta == rope.get(FULL, rope)["rope_theta"]
    assert ours.rope[SLIDING].rope_theta == rope.get(SLIDING, rope)["rope_theta"]


def test_configs_of_transformers_4():
    """Before `rope_parameters` there were `rope_theta`, `rope_scaling` and, in Gemma, `rope_local_base_freq`."""
    old = read(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}, layer_types=None)
    assert (old.rope[FULL].rope_theta, old.rope[FULL].factor, old.rope[FULL].rope_type) == (5e5, 2.0, "linear")
    gemma = LlamaConfig.from_hf(
        {
            "model_type": "gemma3_text",
            **TINY,
            "num_key_value_heads": 2,
            "rope_theta": 2e6,
            "rope_local_base_freq": 3e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window_pattern": 3,
        }
    )
    assert (gemma.rope[FULL].rope_theta, gemma.rope[FULL].factor) == (2e6, 8.0)
    assert (gemma.rope[SLIDING].rope_theta, gemma.rope[SLIDING].rope_type) == (3e4, "default")
    assert gemma.layer_types == (SLIDING, SLIDING, FULL)


def test_a_multimodal_gemma_is_read_by_its_language_half():
    text = {**TINY, "num_key_value_heads": 2, "sliding_window": 512}
    config = LlamaConfig.from_hf({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 9}})
    assert (config.model_type, config.hidden_size, config.sliding_window) == ("gemma3_text", 48, 512)


def test_an_explicit_null_switches_sliding_off():
    mistral = {"model_type": "mistral", **TINY, "num_key_value_heads": 2}
    assert set(LlamaConfig.from_hf(mistral).layer_types) == {SLIDING}
    assert set(LlamaConfig.from_hf({**mistral, "sliding_window": None}).layer_types) == {FULL}


@pytest.mark.parametrize("family", ["llama-llama3", "mistral", "qwen2-sliding", "qwen3", "gemma3"])
def test_written_for_either_version(family, pair_of):
    """The written config says the same by its old names alone, by its new names alone, and by both."""
    config = pair_of(family).ours.config
    written = config.to_hf()
    assert LlamaConfig.from_hf(written) == config
    old = {name: value for name, value in written.items() if name != "rope_parameters"}
    assert LlamaConfig.from_hf(old) == config
    new = {name: value for name, value in written.items() if name not in ("rope_theta", "rope_scaling")}
    assert LlamaConfig.from_hf(new) == config


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"num_attention_heads": 5, "num_key_value_heads": 2}, "num_attention_heads=5 is not a multiple"),
        ({"num_attention_heads": 16}, "head_dim=3 must be even"),
        ({"hidden_size": None}, "hidden_size must be a positive"),
        ({"layer_types": ["full_attention"]}, "1 layer_types for num_hidden_layers=3"),
        ({"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "'linear_attention'"),
        ({"layer_types": ["sliding_attention"] * 3}, "sliding_window must be"),
        ({"hidden_act": "swish9"}, "'swish9'"),
        ({"model_type": "llama5"}, r"'llama5'; the Llama family has llama, mistral"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
    ],
)
def test_a_config_that_is_no_model_is_refused(config, says):
    with pytest.raises(ConfigError, match=says):
        read(**config)


def test_a_new_model_is_random_and_trains():
    torch.manual_seed(0)
    model = Llama(read(tie_word_embeddings=True))
    ids_BT = torch.randint(0, 97, (4, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        logits_BTV = model(ids_BT[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(97), abs=0.2)  # uniform at first
    assert losses[-1] < losses[0] / 2


def test_a_tied_head_is_one_matrix():
    model = Llama(read(tie_word_embeddings=True))
    assert not [name for name in model.state_dict() if name.startswith("lm_head")]
    assert model.output_embedding() is model.model.embed_tokens.weight
    untied = Llama(read(tie_word_embeddings=False))
    assert untied.output_embedding() is untied.lm_head.weight
