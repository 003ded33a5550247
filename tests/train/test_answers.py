"""Credit for rewards: what each token's advantage is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.data.branches import Branches
from modelworks.train.answers import Answer, RolloutRecipe, credit, packed, unpacked


def answer(reward: float, length: int = 3, *, is_cut: bool = False, gap: float = 0.0, values=None) -> Answer:
    tokens = {
        "old_logprobs": np.full(length, gap - 2, np.float32),
        "reference_logprobs": np.full(length, -2, np.float32),
        "old_values": np.zeros(length, np.float32) if values is None else np.array(values, np.float32),
    }
    return Answer(0, "", np.arange(length), is_cut, tokens, reward=reward)


def advantages(*answers: Answer) -> list[list[float]]:
    return [each.tokens["advantages"].tolist() for each in answers]


def test_a_critics_credit_is_golden():
    one = answer(1.0, values=[0.5, 0.4, 0.3])
    credit([[one]], RolloutRecipe(samples=1, advantage="gae"), 0.0)
    assert advantages(one)[0] == pytest.approx([0.43675, 0.565, 0.7], abs=1e-5)
    assert one.tokens["returns"] == pytest.approx([0.93675, 0.965, 1.0], abs=1e-5)


def test_the_reward_is_on_the_last_true_token_however_long_the_others_are():
    """trl#3750: with gamma 0 each token has its own reward alone; the others are padded beside the first."""
    short, long = answer(1.0, 3), answer(2.0, 5, is_cut=True)
    credit([[short], [long]], RolloutRecipe(samples=1, advantage="gae", gamma=0.0, missing_eos=0.5), 0.0)
    assert advantages(short, long) == [[0, 0, 1], [0, 0, 0, 0, 1.5]]


def test_divergence_is_taxed_where_it_happens_or_in_the_sum():
    recipe = RolloutRecipe(samples=1, advantage="gae", gamma=0.0, kl=0.1)
    one = answer(1.0, gap=0.5)
    credit([[one]], recipe, 0.2)
    assert advantages(one)[0] == pytest.approx([-0.1, -0.1, 0.9])
    pair = [answer(1.0, gap=0.5), answer(1.0)]
    credit([pair], RolloutRecipe(samples=2, advantage="rloo", kl=0.1), 0.2)
    assert advantages(*pair) == [pytest.approx([-0.3] * 3), pytest.approx([0.3] * 3)]


@pytest.mark.parametrize(("kind", "size"), [("group", 0.86588), ("group_mean", 0.5), ("rloo", 0.66667)])
def test_groups_are_golden(kind, size):
    group = [answer(reward, 2) for reward in (1.0, 0, 0, 1)]
    lonely = [answer(5.0)]  # whose other samples failed
    credit([group, lonely], RolloutRecipe(advantage=kind), 0.0)
    assert [each[0] for each in advantages(*group)] == pytest.approx([size, -size, -size, size], abs=1e-5)
    assert advantages(*lonely) == [[0, 0, 0]]


def test_returns_are_those_before_whitening():
    answers = [answer(reward, 2, values=[0.5, 0.2]) for reward in (1.0, 3.0)]
    plain = [answer(reward, 2, values=[0.5, 0.2]) for reward in (1.0, 3.0)]
    recipe = RolloutRecipe(samples=1, advantage="gae", whiten_advantages=True)
    credit([[each] for each in answers], recipe, 0.0)
    credit([[each] for each in plain], RolloutRecipe(samples=1, advantage="gae"), 0.0)
    for one, other in zip(answers, plain):
        assert one.tokens["returns"].tolist() == other.tokens["returns"].tolist()
    white = np.concatenate([each.tokens["advantages"] for each in answers])
    assert white.mean() == pytest.approx(0, abs=1e-6)
    assert white.std(ddof=1) == pytest.approx(1, abs=1e-5)


def test_rewards_are_whitened_without_shifting_their_mean():
    answers = [answer(1.0, 1), answer(5.0, 1)]
    credit([[each] for each in answers], RolloutRecipe(samples=1, advantage="gae", whiten_rewards=True), 0.0)
    first, second = (each.tokens["advantages"][0] for each in answers)
    assert first + second == pytest.approx(6)
    assert second - first == pytest.approx(2**0.5, abs=1e-4)


def test_a_row_comes_back_from_a_checkpoint(tmp_path):
    one = answer(1.0)
    row = Branches(np.array([1, 2]), [one.branch()], {"normalizers": np.ones(1, np.float32)})
    torch.save(packed(row), tmp_path / "row.pt")
    again = unpacked(torch.load(tmp_path / "row.pt", weights_only=True))
    np.testing.assert_equal(vars_of(again), vars_of(row))


def vars_of(row: Branches):
    return row.prompt, [(each.ids, each.weights, dict(each.tokens)) for each in row.completions], dict(row.columns)


def test_numbers_that_make_no_sense_are_named():
    for options, named in (
        ({"samples": 1}, "samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"kl_target": 6.0}, "kl_target"),
        ({"prompts": 0}, "prompts"),
        ({"lam": 1.5}, "lam"),
        ({"missing_eos": -1.0}, "missing_eos"),
    ):
        with pytest.raises(ConfigError, match=named):
            RolloutRecipe(**options)
