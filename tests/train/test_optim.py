"""Which parameters are stepped by what."""

from __future__ import annotations

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.train.adam8bit import AdamW8bit
from modelworks.train.muon import Muon
from modelworks.train.optim import OptimRecipe, make_optimizers, state_bytes


def names(model, group):
    return {name for name, parameter in model.named_parameters() if any(parameter is p for p in group["params"])}


def test_norms_and_biases_never_decay_and_embeddings_by_choice(make_model):
    model = make_model()
    (adamw,) = make_optimizers(model, OptimRecipe(weight_decay=0.1, decay_embeddings=False))
    decay = {name: group["weight_decay"] for group in adamw.param_groups for name in names(model, group)}
    assert decay.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        is_embedding = name.endswith(("wte.weight", "wpe.weight"))
        assert decay[name] == (0.1 if parameter.dim() == 2 and not is_embedding else 0.0), name
    assert type(adamw) is torch.optim.AdamW
    assert adamw.defaults["fused"]
    (adamw,) = make_optimizers(model, OptimRecipe(weight_decay=0.1))
    assert {
        group["weight_decay"] for group in adamw.param_groups if "transformer.wte.weight" in names(model, group)
    } == {0.1}


def test_muon_steps_hidden_matrices_and_adamw_the_rest(make_model):
    model = make_model(tie_word_embeddings=False)
    muon, adamw = make_optimizers(model, OptimRecipe(name="muon"))
    assert type(muon) is Muon
    stepped = names(model, muon.param_groups[0])
    assert {name.split(".")[-2] for name in stepped} == {"c_attn", "c_proj", "c_fc"}
    rest = set().union(*(names(model, group) for group in adamw.param_groups))
    assert {"lm_head.weight", "transformer.wte.weight", "transformer.wpe.weight"} < rest
    assert not stepped & rest
    assert stepped | rest == dict(model.named_parameters()).keys()


def test_8_bit_states_take_less_memory(make_model):
    model = make_model(n_embd=64, n_inner=256)
    held = {}
    for name in ("adamw", "adamw8bit"):
        optimizers = make_optimizers(model, OptimRecipe(name=name))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        held[name] = state_bytes(optimizers)
    assert type(optimizers[0]) is AdamW8bit
    assert held["adamw8bit"] < 0.35 * held["adamw"]  # small tensors stay as they are


def test_only_what_is_trainable_is_stepped(make_model):
    model = make_model()
    model.transformer.h.requires_grad_(False)
    for name in ("adamw", "muon"):
        optimizers = make_optimizers(model, OptimRecipe(name=name))
        stepped = set().union(*(names(model, group) for o in optimizers for group in o.param_groups))
        assert stepped == {n for n, p in model.named_parameters() if p.requires_grad}
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of the model is trainable"):
        make_optimizers(model, OptimRecipe())


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"lr": 0.0}, "lr must be above 0"), ({"beta2": 1.0}, "beta2"), ({"weight_decay": -1.0}, "weight_decay")],
)
def test_values_out_of_range_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        OptimRecipe(**changes)
