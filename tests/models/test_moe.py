"""Configs, checkpoints and routing of mixtures of experts; logits are in test_base.py, for every family at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from modelworks.core.errors import ConfigError
from modelworks.engine.engine import Engine
from modelworks.engine.generate import complete
from modelworks.engine.sample import Sampling
from modelworks.models.llama import FULL, SLIDING
from modelworks.models.load import load
from modelworks.models.moe import ARCHITECTURES, MoE, MoEConfig, recording
from modelworks.models.save import save

TINY = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
FAMILIES = ["mixtral", "qwen2-moe", "qwen3-moe", "dots1"]
DOTS1 = {"n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2}


def read(model_type="qwen3_moe", **config):
    return MoEConfig.from_hf({"model_type": model_type, **TINY, **config})


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_a_config_leaves_out_is_transformers_default(model_type):
    import transformers

    more = DOTS1 if model_type == "dots1" else {}
    config = {name: value for name, value in TINY.items() if name != "num_key_value_heads"} | {
        "num_attention_heads": 32, "hidden_size": 128, **more,
    }  # fmt: skip
    ours = MoEConfig.from_hf({"model_type": model_type, **config})
    theirs = transformers.AutoConfig.for_model(model_type, **config)
    for name in (
        "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id",
        "num_key_value_heads", "num_experts_per_tok",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.num_experts == getattr(theirs, "num_experts", None) or theirs.num_local_experts
    assert ours.moe_intermediate_size == getattr(theirs, "moe_intermediate_size", 80)
    assert ours.norm_topk_prob == getattr(theirs, "norm_topk_prob", True)
    assert ours.rope[FULL].rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_config_is_read_back(family, pair_of):
    config = pair_of(family).ours.config
    assert MoEConfig.from_hf(config.to_hf()) == config


def test_which_layers_slide():
    assert set(read("mixtral", sliding_window=5).layer_types) == {SLIDING}
    assert set(read("qwen3_moe", sliding_window=5).layer_types) == {FULL}
    assert set(read("qwen3_moe", sliding_window=5, use_sliding_window=True, max_window_layers=2).layer_types) == {
        SLIDING
    }
    qwen2 = read("qwen2_moe", sliding_window=5, use_sliding_window=True, max_window_layers=3)
    assert qwen2.layer_types == (SLIDING, FULL, SLIDING, FULL)
    assert read("dots1", **DOTS1, max_window_layers=3).layer_types == (FULL, FULL, FULL, SLIDING)


def test_which_layers_are_dense():
    assert read(decoder_sparse_step=2, mlp_only_layers=[3]).dense_layers == (0, 2, 3)
    assert read("dots1", **DOTS1, first_k_dense_replace=2).dense_layers == (0, 1)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "deepseek_v3"}, "'deepseek_v3'; mixtures of experts are mixtral"),
        ({"num_experts_per_tok": 9, "num_experts": 8}, "num_experts_per_tok=9 is more than the 8"),
        ({"num_experts": 0}, "num_experts must be a positive"),
        ({"mlp_only_layers": "all"}, "mlp_only_layers must be a list"),
        ({"mlp_only_layers": [0.5]}, None),
        ({"model_type": "mixtral", "router_jitter_noise": 0.1}, "router_jitter_noise=0.1 is not supported"),
        ({"model_type": "dots1", **DOTS1, "n_group": 4}, "n_group=4 is not supported"),
        ({"model_type": "dots1", **DOTS1, "n_shared_experts": None}, "n_shared_experts must be"),
        ({"model_type": "dots1", **DOTS1, "first_k_dense_replace": 5}, "no layer 4 to be dense"),
    ],
)
def test_a_config_that_is_no_model_is_refused(config, says):
    if says is None:
        assert read(**config).dense_layers == ()
        return
    with pytest.raises(ConfigError, match=says):
        read(**config)


def test_the_bias_stays_precise_in_a_model_of_bfloat16(pair_of, tmp_path):
    """Balancing moves it by a thousandth: in bfloat16 that is lost."""
    exact = pair_of("dots1").ours.model.layers[1].mlp.gate.e_score_correction_bias
    rough = load(pair_of("dots1").folder, dtype=torch.bfloat16)
    assert torch.equal(rough.model.layers[1].mlp.gate.e_score_correction_bias, exact)
    assert rough.model.layers[1].mlp.gate.weight.dtype == torch.bfloat16
    assert torch.equal(load(save(rough, tmp_path / "rough")).model.layers[1].mlp.gate.e_score_correction_bias, exact)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_generates_what_generate_does(family, pair_of):
    model, prompts = pair_of(family).ours, [[5, 9, 11, 4], [7, 8], [3, 60, 61, 62, 63, 64]]
    sampling = Sampling(max_tokens=8)
    with Engine(model, kv_bytes=1 << 20) as engine:
        handles = [engine.submit(prompt, sampling) for prompt in prompts]
        answers = [tuple(index for piece in handle for index in piece.ids) for handle in handles]
    assert answers == [answer.ids for answer in complete(model, prompts, sampling)]


def test_recording_has_each_layer_once_with_its_graph(pair_of, ids_BT):
    model = pair_of("qwen2-moe").ours
    with recording(model) as calls:
        model(ids_BT)
        model(ids_BT[:1], attention_mask_BS=torch.ones(1, 13))
    assert [call.rows for call in calls] == [2, 1]
    assert [len(call.layers) for call in calls] == [2, 2]  # its middle layer is dense
    assert calls[0].attention_mask_BS is None
    assert calls[1].attention_mask_BS is not None
    routing = calls[0].layers[0]
    assert routing.logits_NE.shape == (26, 6)
    assert routing.choice_Nk.shape == (26, 3)
    torch.testing.assert_close(routing.scores_NE, routing.logits_NE.softmax(-1))
    gradient = torch.autograd.grad(routing.logits_NE.square().sum(), model.model.layers[0].mlp.gate.weight)
    assert gradient[0].abs().sum() > 0
    model(ids_BT)
    assert len(calls) == 2, "after the block nothing is noted"


def test_recording_is_right_under_activation_checkpointing(pair_of, ids_BT):
    """A layer that is computed again in the backward pass is noted once, and its gradient is the same."""
    model = load(pair_of("mixtral").folder)
    gates = [layer.mlp.gate.weight for layer in model.model.layers]

    def gradients():
        with recording(model) as calls:
            out = model(ids_BT)
        loss = out.square().mean() + sum(routing.logits_NE.logsumexp(-1).square().mean() for routing in calls[0].layers)
        found = torch.autograd.grad(loss, gates)
        assert [len(call.layers) for call in calls] == [3]
        return found

    plain = gradients()
    for layer in model.model.layers:
        layer.forward = lambda *args, forward=layer.forward: checkpoint(forward, *args, use_reentrant=False)
    for ours, expected in zip(gradients(), plain):
        torch.testing.assert_close(ours, expected)


def test_recording_needs_experts(pair_of):
    with pytest.raises(ValueError, match="Llama has no experts"), recording(pair_of("llama").ours):
        pass


def test_a_new_model_is_random_and_trains():
    torch.manual_seed(0)
    model = MoE(read("dots1", **DOTS1, moe_intermediate_size=16))
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
