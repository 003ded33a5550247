from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.objectives.advantage import (
    at_last,
    gae,
    group_advantages,
    k1,
    k2,
    k3,
    leave_one_out,
    next_coefficient,
    whiten,
)


def test_gae_is_golden():
    found = gae(torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.5, 0.4, 0.3]]), torch.ones(1, 3))
    torch.testing.assert_close(found.advantages_ST, torch.tensor([[0.43675, 0.565, 0.7]]))
    torch.testing.assert_close(found.returns_ST, torch.tensor([[0.93675, 0.965, 1.0]]))


@given(
    st.lists(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=5), min_size=1, max_size=4)
)
def test_gae_beside_others_is_that_of_each_alone(rows):
    """Padding, whatever stands on it, changes nothing."""
    T = max(map(len, rows))
    mask_ST = torch.tensor([[float(t < len(row)) for t in range(T)] for row in rows])
    rewards_ST, values_ST = (
        torch.tensor([[row[t][part] if t < len(row) else 7.0 for t in range(T)] for row in rows]) for part in (0, 1)
    )
    together = gae(rewards_ST, values_ST, mask_ST, gamma=0.9)
    for at, row in enumerate(rows):
        alone = gae(
            *(torch.tensor([[step[part] for step in row]]) for part in (0, 1)), torch.ones(1, len(row)), gamma=0.9
        )
        for mine, theirs in zip(together, alone):
            torch.testing.assert_close(mine[at, : len(row)], theirs[0])
            assert not mine[at, len(row) :].any()


def test_a_reward_is_put_on_the_last_true_token():
    """[t, t, EOS, PAD, PAD]: index 2 (trl#3750)."""
    mask_ST = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    rewards_ST = at_last(torch.tensor([5.0, 6.0, 7.0]), mask_ST)
    assert rewards_ST.nonzero().tolist() == [[0, 2], [1, 4], [2, 0]]
    with pytest.raises(ValueError, match="no token"):
        at_last(torch.ones(1), torch.zeros(1, 3))


def test_whitening_is_unbiased_and_keeps_a_mean_where_it_has_to():
    values_ST = torch.tensor([[1.0, 2.0, 99.0], [4.0, 9.0, 99.0]])
    mask_ST = torch.tensor([[1, 1, 0], [1, 1, 0]])
    white = whiten(values_ST, mask_ST)[:, :2]
    assert float(white.mean()) == pytest.approx(0, abs=1e-6)
    assert float(white.var()) == pytest.approx(1, abs=1e-5)
    kept = whiten(values_ST, mask_ST, shift_mean=False)
    assert float(kept[:, :2].mean()) == pytest.approx(4, abs=1e-5)
    assert not kept[:, 2].any()
    assert whiten(torch.ones(1, 2), torch.tensor([[1, 0]])).tolist() == [[1, 0]]
    assert torch.isfinite(whiten(torch.ones(2, 2), torch.ones(2, 2))).all()


def test_group_advantages_are_golden():
    scores_PG = torch.tensor([[1.0, 0, 0, 1]])
    expected = torch.tensor([[1.0, -1, -1, 1]])
    torch.testing.assert_close(group_advantages(scores_PG), 0.86588 * expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(group_advantages(scores_PG, scale=False), 0.5 * expected)
    torch.testing.assert_close(leave_one_out(scores_PG), 0.66667 * expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("of", [group_advantages, leave_one_out])
def test_a_score_that_is_missing_counts_nowhere(of):
    nan = math.nan
    found = of(torch.tensor([[1.0, nan, 0, 1], [2.0, nan, nan, nan], [3.0, 3, 3, 3]]))
    torch.testing.assert_close(found[0, [0, 2, 3]], of(torch.tensor([[1.0, 0, 1]]))[0])
    assert found[0, 1].isnan()
    assert found[1, 0] == 0
    assert not found[2].any()


def test_estimators_of_kl_are_golden():
    at = torch.tensor(0.5)
    assert [float(k(at)) for k in (k1, k2, k3)] == pytest.approx([0.5, 0.125, 0.10653], abs=1e-5)


def test_the_coefficient_follows_the_divergence():
    assert next_coefficient(0.1, 6.0, target=6.0) == pytest.approx(0.1)
    assert next_coefficient(0.1, 60.0, target=6.0) == pytest.approx(0.102)
    assert next_coefficient(0.1, 0.0, target=6.0) == pytest.approx(0.098)
    assert next_coefficient(0.1, 6.6, target=6.0) == pytest.approx(0.101)
