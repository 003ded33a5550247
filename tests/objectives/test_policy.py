from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from modelworks.core.errors import ConfigError
from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.heads import ActorCritic
from modelworks.objectives.policy import Policy, score

V = 29
REDUCTIONS = ("grpo", "bnpo", "dr_grpo", "dapo")


def gpt2(seed: int = 0) -> GPT2:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=V, n_positions=32, n_embd=16, n_layer=2, n_head=2, n_inner=32, initializer_range=0.3)
    return GPT2(config)  # its dropout is .1


def critic(seed: int = 0) -> ActorCritic:
    model = ActorCritic(gpt2(seed))
    nn.init.normal_(model.value.weight)
    return model


def rows(count: int = 4, seed: int = 3) -> list[Branches]:
    """Prompts with two completions each, and numbers of all that a policy is asked about."""
    draw = np.random.default_rng(seed)

    def ids(least: int) -> np.ndarray:
        return draw.integers(0, V, draw.integers(least, 7))

    def branch() -> Branch:
        found = ids(1)
        names = ("old_logprobs", "reference_logprobs", "advantages", "returns", "old_values")
        numbers = {name: draw.normal(size=len(found)).astype(np.float32) for name in names}
        numbers["old_logprobs"] -= 3
        numbers["reference_logprobs"] -= 3
        return Branch(found, np.ones(len(found), np.float32), numbers)

    each = {"normalizers": np.full(2, 3.5, np.float32), "mean_returns": np.full(2, 0.1, np.float32)}
    return [Branches(ids(2), (branch(), branch()), each) for _ in range(count)]


def lengths_of(made: list[Branches]) -> list[int]:
    return [len(each.ids) for row in made for each in row.completions]


# --- one loss, worked out token by token ------------------------------------------------------------------------------


def plainly(model: nn.Module, made: list[Branches], options: Policy) -> float:
    """The step's loss by the definition, completion by completion, from whole log-probabilities."""
    total, all_lengths, high = 0.0, lengths_of(made), options.clip if options.clip_high is None else options.clip_high
    with torch.no_grad():
        for row in made:
            for each in row.completions:
                found = score(model, branch_batch([Branches(row.prompt, (each,))], pad_id=0))
                inside = slice(len(row.prompt) - 1, None)
                now, m = found.logprobs_N[inside], len(each.ids)
                old, reference, advantage, returns, before = (
                    torch.from_numpy(each.tokens[name])
                    for name in ("old_logprobs", "reference_logprobs", "advantages", "returns", "old_values")
                )
                gap = now - old
                ratio = {"token": gap, "mean": gap.mean().expand(m), "sum": gap.sum().expand(m)}[options.ratio].exp()
                loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - options.clip, 1 + high) * advantage)
                if options.kl:
                    d = now - reference
                    loss += options.kl * (torch.exp(-d) - 1 + d) * (gap.exp() if options.kl_weighted else 1)
                if options.vf:
                    value = found.values_N[inside]
                    near = torch.minimum(torch.maximum(value, before - 0.2), before + 0.2)
                    loss += options.vf * torch.maximum((value - returns) ** 2, (near - returns) ** 2) / 2
                total += float(loss.mean() if options.reduction == "grpo" else loss.sum())
    count = len(all_lengths)
    return total / {
        "grpo": count, "bnpo": sum(all_lengths), "dr_grpo": count * 9, "dapo": count * 3.5
    }[options.reduction]  # fmt: skip


OPTIONS = [
    *({"reduction": each} for each in REDUCTIONS),
    {"ratio": "mean", "clip": 0.003, "clip_high": 0.004},
    {"ratio": "sum", "reduction": "grpo"},
    {"clip_high": 0.28},
    {"kl": 0.1},
    {"kl": 0.1, "kl_weighted": False},
    {"vf": 0.1, "reduction": "bnpo"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_loss_is_its_definition_and_four_micro_batches_are_one(options):
    objective = Policy(**{"max_tokens": 9} | options)
    model, made = (critic() if objective.vf else gpt2()), rows()

    def gradient(parts):
        model.zero_grad()
        batches = [branch_batch(part, pad_id=0) for part in parts]
        loss = sum(objective(model, batch)[0] for batch in batches) / sum(map(objective.weight, batches))
        loss.backward()
        return loss.item(), {
            name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None
        }

    whole, parts = gradient([made]), gradient([[row] for row in made])
    assert whole[0] == pytest.approx(plainly(model, made, objective), rel=1e-4)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)


def test_steps_per_generation_do_not_rescale_the_gradient():
    """trl#5619: dapo divides by a window of the whole generation batch, so steps of it average to one step of all."""
    objective, model, made = Policy(reduction="dapo"), gpt2(), rows()
    mean = np.float32(np.mean(lengths_of(made)))
    for row in made:
        row.columns["normalizers"][:] = mean

    def gradient(part):
        model.zero_grad()
        batch = branch_batch(part, pad_id=0)
        (objective(model, batch)[0] / objective.weight(batch)).backward()
        return torch.cat([each.grad.flatten() for each in model.parameters()])

    at_once, steps = gradient(made), [gradient(made[at : at + 2]) for at in (0, 2)]
    torch.testing.assert_close(torch.stack(steps).mean(0), at_once, atol=1e-6, rtol=1e-4)


def test_at_the_first_step_every_ratio_is_1_and_the_gradient_is_reinforces():
    model, made = gpt2().train(), rows(2)
    batch = branch_batch(made, pad_id=0)
    batch["old_logprobs"] = score(model, batch, temperature=0.7).logprobs_N.detach().view_as(batch["weights"])
    loss, metrics = Policy(reduction="bnpo", temperature=0.7)(model, batch)
    assert {name: float(metrics[name].total) for name in ("clip_fraction", "approx_kl")} == {
        "clip_fraction": 0,
        "approx_kl": 0,
    }
    assert metrics["ratio"].total == metrics["ratio"].weight
    loss.backward()
    mine = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    (-score(model, batch, temperature=0.7).logprobs_N * batch["advantages"].flatten()).sum().backward()
    for one, other in zip(mine, model.parameters()):
        torch.testing.assert_close(one, other.grad, atol=1e-6, rtol=1e-5)


# --- which estimator has which gradient -------------------------------------------------------------------------------


class Softmax(nn.Module):
    """A distribution over V tokens, whatever came before."""

    def __init__(self, logits_V: torch.Tensor) -> None:
        super().__init__()
        self.logits_V = nn.Parameter(logits_V)

    def forward(self, input_ids_BT, *, readout, **_):
        return readout(self.logits_V.expand(*input_ids_BT.shape, -1), torch.eye(len(self.logits_V)))


def expected_gradient(pi: Softmax, old_V: torch.Tensor, reference_V: torch.Tensor, **options) -> torch.Tensor:
    """The gradient of the loss's divergence, over every token that `old` can draw, each as often as it draws it."""
    n = len(old_V)

    def branch(at: int) -> Branch:
        known = {"old_logprobs": old_V[at].log(), "reference_logprobs": reference_V[at].log(), "advantages": 0.0}
        ids, weights = np.array([at]), np.array([old_V[at]], np.float32)
        return Branch(ids, weights, {name: np.array([float(value)], np.float32) for name, value in known.items()})

    batch = branch_batch([Branches(np.array([0]), [branch(at) for at in range(n)])], pad_id=0)
    pi.zero_grad()
    Policy(kl=1.0, reduction="bnpo", **options)(pi, batch)[0].backward()
    return pi.logits_V.grad.clone()


def exact(pi: Softmax, reference_V: torch.Tensor, *, forward: bool = False) -> torch.Tensor:
    pi.zero_grad()
    logp_V = pi.logits_V.log_softmax(-1)
    divergence = (
        (reference_V * (reference_V.log() - logp_V)).sum()
        if forward
        else (logp_V.exp() * (logp_V - reference_V.log())).sum()
    )
    divergence.backward()
    return pi.logits_V.grad.clone()


@pytest.fixture
def distributions():
    torch.manual_seed(0)
    pi = Softmax(torch.randn(7))
    reference_V, other_V = torch.randn(2, 7).softmax(-1)
    return pi, pi.logits_V.detach().softmax(-1), other_V, reference_V


def test_bare_estimators_have_the_gradients_that_the_docstring_derives(distributions, monkeypatch):
    pi, own_V, _, reference_V = distributions
    right, other_way = exact(pi, reference_V), exact(pi, reference_V, forward=True)
    bare = {
        name: expected_gradient(pi, own_V, reference_V, kl_estimator=name, kl_weighted=False) for name in ("k2", "k3")
    }
    torch.testing.assert_close(bare["k2"], right, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(bare["k3"], other_way, atol=1e-5, rtol=1e-4)
    assert (right - other_way).abs().max() > 0.05  # the two do differ here
    with pytest.raises(ConfigError, match="expected gradient of 0"):
        Policy(kl=1.0, kl_estimator="k1", kl_weighted=False)
    monkeypatch.setattr(Policy, "__post_init__", lambda self: None)
    k1 = expected_gradient(pi, own_V, reference_V, kl_estimator="k1", kl_weighted=False)
    torch.testing.assert_close(k1, torch.zeros(7), atol=1e-6, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("drawn_by", ["itself", "another"])
def test_weighted_estimators_have_the_gradient_of_the_divergence_whoever_drew(distributions, estimator, drawn_by):
    pi, own_V, other_V, reference_V = distributions
    old_V = own_V if drawn_by == "itself" else other_V
    found = expected_gradient(pi, old_V, reference_V, kl_estimator=estimator)
    torch.testing.assert_close(found, exact(pi, reference_V), atol=1e-5, rtol=1e-4)


# --- what it tells, and refuses ---------------------------------------------------------------------------------------


def test_metrics():
    model, made = critic(), rows()
    batch = branch_batch(made, pad_id=0) | {"note/reward": torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 1])}
    found = {name: float(each.total / each.weight) for name, each in Policy(vf=0.1)(model, batch)[1].items()}
    assert found["reward"] == 0.25
    assert 0 < found["clip_fraction"] < 1
    assert found["approx_kl"] > 0
    assert 0 < found["entropy"] < math.log(V)
    mask = batch["weights"] > 0
    returns, values = batch["returns"][mask], score(model, batch).values_N.view_as(mask)[mask].detach()
    expected = 1 - (returns - values).square().sum() / (returns - 0.1).square().sum()
    assert found["explained_variance"] == pytest.approx(float(expected), abs=1e-4)


def test_a_batch_without_rows_counts_nothing():
    batch = branch_batch([], pad_id=0)
    names = ("old_logprobs", "advantages", "returns", "old_values")
    batch |= {name: torch.zeros(1, 1) for name in names}
    batch |= {name: torch.zeros(0) for name in ("normalizers", "mean_returns", "note/reward")}
    for reduction in REDUCTIONS:
        for ratio in ("token", "mean", "sum"):
            objective = Policy(reduction=reduction, ratio=ratio, vf=0.1, max_tokens=3)
            assert objective.weight(batch) == 0
            loss, metrics = objective(critic(), batch)
            assert loss == 0
            assert all(each.weight == 0 for each in metrics.values())


def test_settings_that_make_no_loss_are_named():
    for options, named in (
        ({"ratio": "word"}, "ratio"),
        ({"reduction": "dr_grpo"}, "max_tokens"),
        ({"clip": 0.0}, "clip"),
        ({"clip_high": -1.0}, "clip_high"),
        ({"kl": -1.0}, "kl is"),
        ({"temperature": 0.0}, "temperature"),
        ({"value_clip": 0.0}, "value_clip"),
    ):
        with pytest.raises(ConfigError, match=named):
            Policy(**options)
    batch = branch_batch(rows(1), pad_id=0)
    with pytest.raises(ConfigError, match="a critic needs both"):
        Policy(vf=0.1)(gpt2(), batch)
    with pytest.raises(ConfigError, match="a critic needs both"):
        Policy()(critic(), batch)
    del batch["reference_logprobs"]
    with pytest.raises(ConfigError, match="reference_logprobs"):
        Policy(kl=0.1)(gpt2(), batch)
