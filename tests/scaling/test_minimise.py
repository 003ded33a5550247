"""The solver: derivatives are right, and no start stalls."""

from __future__ import annotations

import numpy as np
import pytest

from modelworks.scaling.minimise import PowerOfSum, SumOfPowers, minimise

RNG = np.random.default_rng(0)
X_KRP = RNG.normal(size=(3, 7, 4))
OFFSET_KR = RNG.normal(size=(3, 7))


@pytest.mark.parametrize(
    ("curve", "P"), [(SumOfPowers(X_KRP, OFFSET_KR), 4), (SumOfPowers(X_KRP), 4), (PowerOfSum(X_KRP, OFFSET_KR), 5)]
)
def test_derivatives_are_those_of_differences(curve, P) -> None:
    theta_SP, c_SR, step = RNG.normal(size=(2, P)), RNG.normal(size=(2, 7)), 1e-6
    _, g_SRP, curvature = curve(theta_SP)
    h_SPP = curvature(c_SR)
    for p in range(P):
        moved = step * np.eye(P)[p]
        up_SR, g_up_SRP, _ = curve(theta_SP + moved)
        down_SR, g_down_SRP, _ = curve(theta_SP - moved)
        assert (up_SR - down_SR) / (2 * step) == pytest.approx(g_SRP[..., p], abs=1e-7)
        bend_SP = np.einsum("sr,srp->sp", c_SR, (g_up_SRP - g_down_SRP) / (2 * step))
        assert bend_SP == pytest.approx(h_SPP[:, p], abs=1e-6)


def test_one_row_far_off_does_not_move_a_line() -> None:
    """The Huber loss: with squares the slope would be 1.3 times as steep."""
    x_R = np.linspace(0, 1, 11)
    y_R = 2 * x_R
    y_R[-1] += 1
    curve = SumOfPowers(np.stack([np.ones(11), x_R], -1)[None])
    found = minimise(curve, y_R, np.zeros((1, 2)), delta=1e-3)
    assert found.settled_S.all()
    assert found.theta_SP[0] == pytest.approx([0, 2], abs=0.02)
    assert found.objective_S[0] == pytest.approx(1e-3, rel=0.05)  # delta (|r| - delta / 2) of the one row


def test_weights_are_rows_that_are_there_so_often() -> None:
    x_R, y_R = RNG.normal(size=6), RNG.normal(size=6)
    count_R = np.array([2, 0, 1, 3, 0, 1])

    def fit(x_R, y_R, weight_SR=None):
        curve = SumOfPowers(np.stack([np.ones(len(x_R)), x_R], -1)[None])
        return minimise(curve, y_R, np.zeros((1, 2)), delta=0.5, weight_SR=weight_SR)

    weighted = fit(x_R, y_R, count_R[None].astype(float))
    repeated = fit(np.repeat(x_R, count_R), np.repeat(y_R, count_R))
    assert weighted.theta_SP == pytest.approx(repeated.theta_SP)
    assert weighted.objective_S == pytest.approx(repeated.objective_S)


def test_starts_worked_off_in_portions_are_the_same(monkeypatch) -> None:
    curve = SumOfPowers(np.stack([np.ones(50), np.linspace(0, 1, 50)], -1)[None])
    starts_SP = RNG.normal(size=(9, 2))
    whole = minimise(curve, np.linspace(0, 3, 50) ** 2, starts_SP, delta=0.1)
    monkeypatch.setattr("modelworks.scaling.minimise._CHUNK", 200)
    parts = minimise(curve, np.linspace(0, 3, 50) ** 2, starts_SP, delta=0.1)
    assert whole.theta_SP == pytest.approx(parts.theta_SP, abs=1e-7)
