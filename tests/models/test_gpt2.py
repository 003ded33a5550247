"""What is GPT-2's own; logits are in test_base.py, for every family at once."""

from __future__ import annotations

import pytest
import torch

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.models.gpt2 import GPT2, GPT2Config

TINY = GPT2Config(vocab_size=97, n_positions=16, n_embd=48, n_layer=3, n_head=6, n_inner=80)


def test_defaults_are_the_published_small_model():
    import transformers

    ours, theirs = GPT2Config.from_hf({"model_type": "gpt2"}), transformers.GPT2Config()
    for name in vars(ours):
        if name != "n_inner":  # null there, meaning four times the width
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.n_inner == 4 * theirs.n_embd
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT2(ours).parameters()) == 124_439_808


def test_a_position_past_the_last_is_named():
    model = GPT2(TINY).eval()
    model(torch.zeros(1, 16, dtype=torch.long))
    with pytest.raises(ContextLengthError, match="position 16 is beyond the model's context of 16 tokens"):
        model(torch.zeros(1, 17, dtype=torch.long))
    padded = torch.ones(1, 20, dtype=torch.long)
    padded[0, :4] = 0
    model(torch.zeros(1, 20, dtype=torch.long), attention_mask_BS=padded)  # 16 tokens and 4 of padding do fit


def test_dropout_acts_in_training_only():
    ids_BT = torch.randint(0, 97, (1, 8))
    model = GPT2(TINY).eval()
    assert torch.equal(model(ids_BT), model(ids_BT))
    model.train()
    assert not torch.equal(model(ids_BT), model(ids_BT))


def test_what_a_layer_adds_is_initialised_smaller_with_depth():
    torch.manual_seed(0)
    model = GPT2(TINY)
    block = model.transformer.h[0]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"n_head": 5}, "n_embd=768 is not a multiple of n_head=5"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"attn_pdrop": 1.0}, "dropout"),
    ],
)
def test_a_variant_that_is_not_there_is_refused(config, says):
    with pytest.raises(ConfigError, match=says):
        GPT2Config.from_hf({"model_type": "gpt2", **config})
