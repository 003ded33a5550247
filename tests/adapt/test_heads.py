from __future__ import annotations

import pytest
import torch

from modelworks.adapt.heads import group_heads
from modelworks.core.errors import ConfigError
from modelworks.engine.generate import complete
from modelworks.engine.sample import Sampling
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load
from modelworks.models.moe import MoE, MoEConfig
from modelworks.models.save import save

SIZES = {
    "vocab_size": 61, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6,
    "initializer_range": 0.3,
}  # fmt: skip
IDS = torch.randint(0, 61, (2, 11), generator=torch.Generator().manual_seed(1))


def model(**more) -> Llama:
    torch.manual_seed(0)
    made = Llama(LlamaConfig.from_hf({"model_type": "llama", **SIZES, "attention_bias": True, **more})).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_each_new_head_is_the_mean_of_its_group(groups):
    many = model()
    few = group_heads(many, groups)
    size = 6 // groups
    for layer, pooled in zip(many.model.layers, few.model.layers):
        for name in ("k_proj", "v_proj"):
            old, new = getattr(layer.self_attn, name), getattr(pooled.self_attn, name)
            for group in range(groups):
                heads = range(group * size, (group + 1) * size)
                mean_weight = sum(old.weight[8 * head : 8 * head + 8] for head in heads) / size
                mean_bias = sum(old.bias[8 * head : 8 * head + 8] for head in heads) / size
                torch.testing.assert_close(new.weight[8 * group : 8 * group + 8], mean_weight)
                torch.testing.assert_close(new.bias[8 * group : 8 * group + 8], mean_bias)


@torch.no_grad()
def test_heads_that_agree_already_lose_nothing():
    """Pooling undoes repeating: the model computes what it did."""
    few = model(num_key_value_heads=2)
    many = model()
    state = few.state_dict()
    for name, tensor in state.items():
        if "k_proj" in name or "v_proj" in name:
            state[name] = tensor.unflatten(0, (2, 8)).repeat_interleave(3, 0).flatten(0, 1)
    many.load_state_dict(state)
    torch.testing.assert_close(many(IDS), few(IDS))
    torch.testing.assert_close(group_heads(many, 2)(IDS), few(IDS))


@torch.no_grad()
def test_grouping_in_steps_is_grouping_at_once():
    many = model()
    torch.testing.assert_close(group_heads(group_heads(many, 3), 1)(IDS), group_heads(many, 1)(IDS))
    assert many.config.num_key_value_heads == 6, "the model itself stays as it is"


def test_transformers_loads_what_is_saved_and_the_cache_shrinks(tmp_path):
    import transformers

    few = group_heads(model(), 2)
    folder = save(few, tmp_path / "few")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        torch.testing.assert_close(few(IDS), theirs(IDS).logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(load(folder)(IDS), few(IDS), rtol=0, atol=0)
    assert complete(load(folder), [[3, 4, 5]], Sampling(max_tokens=4)) == complete(
        few, [[3, 4, 5]], Sampling(max_tokens=4)
    )


def test_a_mixture_of_experts_is_grouped_too():
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "num_key_value_heads": 6}
    few = group_heads(MoE(MoEConfig.from_hf({"model_type": "qwen3_moe", **SIZES, **experts})), 3)
    assert few(IDS).shape == (2, 11, 61)
    assert few.model.layers[0].self_attn.k_proj.weight.shape == (24, 48)


def test_uptraining_brings_the_loss_back():
    many = model()
    few = group_heads(many, 1)
    with torch.no_grad():
        targets = many(IDS).softmax(-1)
    optimizer = torch.optim.Adam(few.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(few(IDS).flatten(0, 1), targets.flatten(0, 1))
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    floor = float(-(targets * targets.clamp_min(1e-20).log()).sum(-1).mean())
    assert losses[-1] - floor < (losses[0] - floor) / 4


@pytest.mark.parametrize("groups", [0, 4, 7, 12])
def test_a_number_that_does_not_divide_is_refused(groups):
    with pytest.raises(ConfigError, match=f"6 key-value heads cannot be pooled into {groups}"):
        group_heads(model(), groups)
