from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.objectives.completions import Completions, completions
from modelworks.objectives.preference import KTO, PAIR_LOSSES, Pairs, Preference

V = 29


def golden(margin: float = 0.0) -> Pairs:
    """The golden inputs: d is 1.5."""

    def side(logp: float, length: int) -> Completions:
        return Completions(torch.tensor([logp]), torch.tensor([float(length)]))

    return Pairs(side(-10, 5), side(-12, 4), torch.tensor([-11.0]), torch.tensor([-11.5]), torch.tensor([margin]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss": "dpo"}, 0.62096),
        ({"loss": "dpo", "smoothing": 0.1}, 0.63596),
        ({"loss": "robust", "smoothing": 0.1}, 0.60221),
        ({"loss": "hinge"}, 0.85),
        ({"loss": "ipo"}, 21.8556),
        ({"loss": "ipo", "average": False}, 12.25),
        ({"loss": "simpo", "beta": 2.0, "gamma": 0.5}, 0.20141),
        ({"loss": "orpo", "beta": 1.0}, 0.28875 + 10 / 5),
    ],
)
def test_golden_numbers(options, expected):
    found = PAIR_LOSSES[options["loss"]](Preference(**options), golden())
    assert float(found) == pytest.approx(expected, abs=1e-4 * max(1, expected))


def test_a_margin_is_a_gap_of_rewards_to_be_reached():
    assert float(PAIR_LOSSES["dpo"](Preference(), golden(margin=0.15))) == pytest.approx(math.log(2), abs=1e-6)


@given(st.floats(-80, -1e-6))
def test_orpos_odds_are_finite_and_right_for_any_probability(mean):
    def side(value: float) -> Completions:
        return Completions(torch.tensor([value], requires_grad=True), torch.ones(1))

    chosen, rejected = side(mean), side(-1.0)
    zero = torch.zeros(1)
    loss = PAIR_LOSSES["orpo"](Preference(loss="orpo", beta=1.0), Pairs(chosen, rejected, zero, zero, zero))
    loss.sum().backward()
    odds = mean - math.log(-math.expm1(mean)) - (-1 - math.log(-math.expm1(-1.0)))
    assert float(loss) == pytest.approx(-mean + math.log1p(math.exp(-odds)), rel=1e-4, abs=1e-5)
    assert torch.isfinite(chosen.logps_S.grad).all()


# --- in a model -------------------------------------------------------------------------------------------------------


def model(seed: int = 0) -> GPT2:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=V, n_positions=32, n_embd=16, n_layer=2, n_head=2, n_inner=32, initializer_range=0.3)
    return GPT2(config)  # its dropout is .1


def rows(count: int = 4, seed: int = 3) -> list[Branches]:
    draw = np.random.default_rng(seed)

    def ids(least: int) -> np.ndarray:
        return draw.integers(0, V, draw.integers(least, 7))

    def branch() -> Branch:
        found = ids(1)
        return Branch(found, np.ones(len(found), np.float32))

    return [
        Branches(
            ids(2),
            (branch(), branch()),
            {
                "pair_weights": np.array([draw.uniform(0.5, 2)], np.float32),
                "margins": np.zeros(1, np.float32),
                "labels": np.array([at % 2], np.float32),
            },
        )
        for at in range(count)
    ]


def batch_of(part, reference: GPT2):
    batch = branch_batch(part, pad_id=0)
    with torch.no_grad():
        return batch | {"reference": completions(reference, batch, 2 * len(part)).logps_S}


def test_policy_equals_reference_at_step_0():
    """With dropout .1 the first loss of DPO is log 2, and no reward differs from 0 (trl#744)."""
    policy = model().train()
    batch = batch_of(rows(), policy)
    loss, metrics = Preference()(policy, batch)
    assert float(loss / Preference().weight(batch)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(metrics["reward_margin"].total) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_four_micro_batches_are_one(loss):
    policy, reference = model(0), model(1)
    objective = Preference(loss=loss, sft=0.1)

    def gradient(parts):
        policy.zero_grad()
        batches = [batch_of(part, reference) for part in parts]
        total = sum(objective(policy, batch)[0] for batch in batches)
        (total / sum(objective.weight(batch) for batch in batches)).backward()
        return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}

    everything = rows()
    torch.testing.assert_close(gradient([everything]), gradient([[each] for each in everything]), atol=1e-6, rtol=1e-4)


def test_a_pair_counts_by_its_weight():
    policy, reference = model(0), model(1)
    once = rows(2)
    once[1].columns["pair_weights"][:] = 0
    both, alone = (Preference()(policy, batch_of(part, reference))[0] for part in (once, once[:1]))
    torch.testing.assert_close(both, alone)


def test_settings_that_make_no_loss_are_named():
    for options, named in (
        ({"beta": 0.0}, "beta"),
        ({"smoothing": 0.5}, "smoothing"),
        ({"loss": "ipo", "smoothing": 0.1}, "ipo"),
        ({"loss": "ppo"}, "dpo or robust"),
        ({"sft": -1.0}, "sft"),
    ):
        with pytest.raises(ConfigError, match=named):
            Preference(**options)


# --- KTO --------------------------------------------------------------------------------------------------------------


def test_kto_is_golden_with_a_known_z():
    """beta .1, a good completion's log-ratio 1, a bad one's -.5, z = .2."""

    class Given(torch.nn.Module):
        def forward(self, ids, **_):
            return torch.tensor([-10.0, 0.2, -12.0, 0.2])

    batch = {
        "input_ids": torch.zeros(1, 4, dtype=torch.long),
        "positions": torch.zeros(1, 4),
        "attention_mask": torch.ones(1, 4),
        "weights": torch.ones(1, 4),
        "sequences": torch.arange(4)[None],
        "pair_weights": torch.ones(2),
        "labels": torch.tensor([1.0, 0.0]),
        "reference": torch.tensor([-11.0, 0.0, -11.5, 0.0]),
    }
    loss, metrics = KTO()(Given(), batch)
    assert float(loss) == pytest.approx(0.48001 + 0.48251, abs=2e-5)
    assert float(metrics["kl"].total / metrics["kl"].weight) == pytest.approx(0.2)
    weighted, _ = KTO(desirable=2.0, undesirable=0.5)(Given(), batch)
    assert float(weighted) == pytest.approx(2 * 0.48001 + 0.5 * 0.48251, abs=4e-5)


def test_ktos_z_has_no_gradient_and_is_never_below_0():
    policy = model(0)
    batch = batch_of(rows(), policy)
    batch["reference"] = batch["reference"] + torch.tensor([0.0, 5.0] * 4)  # others' log-ratios are -5
    loss, metrics = KTO()(policy, batch)
    assert float(metrics["kl"].total / metrics["kl"].weight) == pytest.approx(-5, abs=1e-4)
    assert float(loss / KTO().weight(batch)) == pytest.approx(0.5, abs=1e-6)
    loss.backward()
    own = model(0)
    fixed = batch_of(rows(), own)
    ratios = completions(own, fixed, 8).logps_S - fixed["reference"]
    sign = torch.tensor([-1.0, 1.0] * 2)
    ((1 - torch.sigmoid(0.1 * sign * ratios[::2])) * fixed["pair_weights"]).sum().backward()
    for mine, theirs in zip(policy.parameters(), own.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad)
