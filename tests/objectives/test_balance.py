from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from modelworks.models.blocks.experts import Call, Router, Routing
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.moe import MoE, MoEConfig
from modelworks.objectives.balance import Balanced, balance_loss, bars, choices, expert_load, max_load
from modelworks.objectives.base import Ratio
from modelworks.objectives.causal_lm import CausalLM
from modelworks.train.loop import TrainRecipe, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.schedule import ScheduleRecipe

SIZES = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 8, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts_per_tok": 2, "initializer_range": 0.3,
}  # fmt: skip
QWEN = {"model_type": "qwen3_moe", "num_experts": 4, "norm_topk_prob": True, "mlp_only_layers": [1]}
DOTS = {"model_type": "dots1", "n_routed_experts": 4, "n_shared_experts": 1}


class Likelihood:
    """The least that an objective can be: -log p of each target, from whole logits."""

    def weight(self, batch):
        return batch["weights"].sum()

    def __call__(self, model, batch):
        logits_BTV = model(batch["input_ids"], attention_mask_BS=batch.get("attention_mask"))
        nll_BT = -logits_BTV.log_softmax(-1).gather(-1, batch["targets"][..., None])[..., 0]
        loss = (nll_BT * batch["weights"]).sum()
        return loss, {"nll": Ratio(loss.detach(), self.weight(batch))}


def made(config=QWEN):
    torch.manual_seed(0)
    return MoE(MoEConfig.from_hf({**SIZES, **config}))


def batch(rows=4, T=9):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 61, (rows, T + 1), generator=generator)
    mask = torch.ones(rows, T, dtype=torch.long)
    mask[1, 6:] = 0
    weights = torch.rand(rows, T, generator=generator) * mask
    return {"input_ids": ids[:, :-1], "targets": ids[:, 1:], "weights": weights, "attention_mask": mask}


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)


def test_batchwise_is_switchs_loss_as_transformers_has_it():
    """Mixtral's code counts choices a token, k times the fractions of Switch's eq. 4."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    torch.manual_seed(0)
    logits_NE = torch.randn(12, 5)
    scores_NE = logits_NE.softmax(-1)
    mask_BT = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    routing = Routing(logits_NE, scores_NE, scores_NE.topk(2).indices)
    ours_N = balance_loss(Call(2, mask_BT, [routing]), routing, "batch")
    ours = (ours_N * mask_BT.flatten()).sum() / mask_BT.sum()
    torch.testing.assert_close(2 * ours, load_balancing_loss_func((logits_NE,), 5, 2, mask_BT))


@pytest.mark.parametrize("scope", ["sequence", "batch"])
def test_even_load_costs_one_and_collapse_the_number_of_experts(scope):
    even_NE = torch.full((8, 4), 0.25)
    routing = Routing(even_NE, even_NE, torch.arange(4).repeat(2)[:, None])
    torch.testing.assert_close(balance_loss(Call(2, None, [routing]), routing, scope), torch.ones(8))
    all_NE = torch.tensor([1.0, 0, 0, 0]).expand(8, 4)
    routing = Routing(all_NE, all_NE, torch.zeros(8, 1, dtype=torch.long))
    torch.testing.assert_close(balance_loss(Call(2, None, [routing]), routing, scope), torch.full((8,), 4.0))


def test_what_is_added_is_its_definition():
    model, data = made(), batch()
    plain, _ = Likelihood()(model, data)
    loss, metrics = Balanced(Likelihood(), balance=0.3, z=0.2)(model, data)
    expected = torch.zeros(())
    routers = [model.model.layers[0].mlp.gate, model.model.layers[2].mlp.gate]
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        router.register_forward_pre_hook(lambda _, args, at=at: seen.__setitem__(at, args[0]))
        for at, router in enumerate(routers)
    ]
    model(data["input_ids"], attention_mask_BS=data["attention_mask"])
    for hook in hooks:
        hook.remove()
    for at, router in enumerate(routers):
        logits_BTE = (seen[at] @ router.weight.T).view(4, 9, 4)
        p_BTE = logits_BTE.softmax(-1)
        for row in range(4):
            real = data["attention_mask"][row].bool()
            chosen = p_BTE[row].topk(2).indices[real].flatten()
            f_E = torch.bincount(chosen, minlength=4) / len(chosen)
            w_T = data["weights"][row]
            expected = expected + 0.3 * (w_T * 4 * (f_E * p_BTE[row]).sum(-1)).sum() / 2
            expected = expected + 0.2 * (w_T * logits_BTE[row].logsumexp(-1).square()).sum() / 2
    torch.testing.assert_close(loss - plain, expected, rtol=1e-4, atol=1e-4)
    for found, wanted in zip(gradients(loss - plain, model), gradients(expected, model)):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert metrics["balance"].total * 0.3 + metrics["router_z"].total * 0.2 == pytest.approx(float(expected), rel=1e-4)
    assert {"nll", "balance", "router_z", "max_load"} == metrics.keys()


@pytest.mark.parametrize("config", [QWEN, DOTS])
def test_one_batch_is_four_micro_batches(config):
    model, data = made(config), batch()
    objective = Balanced(Likelihood(), balance=0.5, z=0.1)
    whole = objective(model, data)[0] / objective.weight(data)
    load = objective._counts_LE
    parts = [{name: tensor[at : at + 1] for name, tensor in data.items()} for at in range(4)]
    objective = Balanced(Likelihood(), balance=0.5, z=0.1)
    cut = sum(objective(model, part)[0] for part in parts) / sum(objective.weight(part) for part in parts)
    torch.testing.assert_close(cut, whole)
    assert torch.equal(objective._counts_LE, load)
    for found, wanted in zip(gradients(cut, model), gradients(whole, model)):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_activation_checkpointing_changes_nothing():
    model, data, objective = made(), batch(), Balanced(Likelihood(), balance=0.5, z=0.1)
    plain = gradients(objective(model, data)[0], model)
    counted = objective._counts_LE
    objective._counts_LE = None
    for layer in model.model.layers:
        layer.forward = lambda *args, forward=layer.forward: checkpoint(forward, *args, use_reentrant=False)
    for found, wanted in zip(gradients(objective(model, data)[0], model), plain):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(objective._counts_LE, counted), "what is computed again is not counted again"


def test_padding_is_not_counted():
    model, data = made(), batch()
    objective = Balanced(Likelihood())
    objective(model, data)
    assert objective._counts_LE.sum(-1).tolist() == [2.0 * int(data["attention_mask"].sum())] * 2


def test_the_balance_loss_evens_the_load():
    model, data = made(), batch(8, 16)
    data["attention_mask"].fill_(1)
    data["weights"].fill_(1)
    before = max_load(expert_load(model, [data]))
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if "mlp.gate" in n], lr=0.02)
    objective = Balanced(Likelihood(), balance=1.0, scope="batch")
    for _ in range(30):
        optimizer.zero_grad()
        (objective(model, data)[0] / objective.weight(data)).backward()
        optimizer.step()
    assert max_load(expert_load(model, [data])) < 1 + (before - 1) / 2


def test_biases_even_the_load_without_a_loss():
    """Wang et al. 2024, algorithm 1: b += u sign(mean - load), over a whole step's micro-batches."""
    model, data = made(DOTS), batch(8, 16)
    data["attention_mask"].fill_(1)
    objective = Balanced(Likelihood(), balance=0, z=0, bias_rate=0.01)
    routers = [module for module in model.modules() if isinstance(module, Router)]
    for router in routers:
        router.e_score_correction_bias.copy_(torch.tensor([0.4, 0.1, -0.1, -0.4]))
    before = max_load(expert_load(model, [data]))
    halves = [{name: tensor[part] for name, tensor in data.items()} for part in (slice(4), slice(4, 8))]
    for step in range(80):
        for half in halves:
            objective(model, half)
        with torch.no_grad():
            objective(model, data)  # an evaluation in between is no part of the step
        biases = [router.e_score_correction_bias.clone() for router in routers]
        objective.after_step(model, taken=True)
        assert objective.load_LE.sum(-1).tolist() == [2.0 * 8 * 16] * 3
        if step == 0:
            for router, bias_E, load_E in zip(routers, biases, objective.load_LE):
                moved_E = router.e_score_correction_bias - bias_E
                torch.testing.assert_close(moved_E, 0.01 * (load_E.mean() - load_E).sign())
    assert max_load(expert_load(model, [data])) < 1 + (before - 1) / 3
    unchanged = [router.e_score_correction_bias.clone() for router in routers]
    objective(model, data)
    objective.after_step(model, taken=False)  # what was skipped moves nothing
    objective.after_step(model, taken=True)  # without a step since
    assert all(torch.equal(r.e_score_correction_bias, b) for r, b in zip(routers, unchanged))


def test_load_is_shown_as_bars():
    shown = bars(torch.tensor([[4, 4, 4, 4], [16, 0, 0, 0]])).splitlines()
    assert shown[0] == "layer  0  |▄▄▄▄|  max 1.00"
    assert shown[1] == "layer  1  |█   |  max 4.00"


def test_choices_add_over_calls():
    scores = torch.rand(6, 3)
    calls = [Call(2, None, [Routing(scores, scores, torch.tensor([[e]] * 6))]) for e in (0, 0, 2)]
    assert choices(calls).tolist() == [[12.0, 0.0, 6.0]]


def test_a_model_without_experts_is_an_error():
    config = LlamaConfig.from_hf({**SIZES, "model_type": "llama"})
    with pytest.raises(ValueError, match="Llama has no experts"):
        Balanced(Likelihood())(Llama(config), batch())


@pytest.mark.parametrize("recompute", [False, True])
def test_the_loop_balances_alike_however_a_step_is_cut(recompute):
    """Weights and biases after two steps of four micro-batches are those of two steps of one batch."""

    class Listed:
        def __init__(self, batches):
            self.batches = batches

        def __iter__(self):
            return iter(self.batches)

        def state(self):
            return {}

        def restore(self, state):
            pass

    data = batch()
    parts = [{name: tensor[at : at + 1] for name, tensor in data.items()} for at in range(4)]
    trained = []
    for batches, accumulate in (([data] * 2, 1), (parts * 2, 4)):
        model, objective = made(DOTS), Balanced(CausalLM(), balance=0.5, z=0.1, bias_rate=0.05)
        recipe = TrainRecipe(
            steps=2, accumulate=accumulate, recompute=recompute, schedule=ScheduleRecipe(name="constant"),
            optim=OptimRecipe(lr=1e-2, eps=1e-2),
        )  # fmt: skip
        (_, step) = train(model, Listed(batches), objective, recipe)
        assert {"nll", "balance", "router_z", "max_load"} <= step.metrics.keys()
        assert objective.load_LE.sum(-1).tolist() == [2.0 * int(data["attention_mask"].sum())] * 3
        trained.append(model.state_dict())
    assert any(bias.any() for name, bias in trained[0].items() if name.endswith("e_score_correction_bias"))
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
