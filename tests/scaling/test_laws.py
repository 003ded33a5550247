"""The laws' own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from modelworks.scaling.laws import (
    KAPLAN,
    KAPLAN_COMPUTE,
    KAPLAN_FRONTIER,
    PF_DAY,
    Chinchilla,
    Kaplan,
    effective_tokens,
)

PRINTED = Chinchilla(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)  # Hoffmann et al.
REPLICATION = Chinchilla(E=1.8169, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)


@pytest.mark.parametrize(("law", "ratio"), [(PRINTED, 92.7), (REPLICATION, 18.4)])
def test_tokens_per_parameter_at_chinchillas_budget(law: Chinchilla, ratio: float) -> None:
    """The trap of rounded constants: the printed ones give five times as many tokens as the law that they stand for."""
    N, D = law.optimum(5.76e23)
    assert pytest.approx(5.76e23) == 6 * N * D
    assert pytest.approx(ratio, abs=0.1) == D / N


@pytest.mark.parametrize("law", [PRINTED, REPLICATION, KAPLAN, Kaplan(1e13, 0.2, 1e14, 0.05)])
@pytest.mark.parametrize("flops", [1e17, 1e21, 1e25])
def test_an_optimum_has_the_lowest_loss_of_its_budget(law, flops: float) -> None:
    N, D = law.optimum(flops)
    best = law.loss(N, D)
    for factor in (0.5, 0.99, 1.01, 2.0):
        assert law.loss(N * factor, D / factor) > best
    assert np.log(law.optimum(10 * flops)[0] / N) / np.log(10) == pytest.approx(law.exponent)


def test_kaplan_without_a_limit_of_data_or_size_is_a_power_law() -> None:
    assert KAPLAN.loss(1.5e9, float("inf")) == pytest.approx((8.8e13 / 1.5e9) ** 0.076)  # eq. 1.1
    assert KAPLAN.loss(float("inf"), 2.3e10) == pytest.approx((5.4e13 / 2.3e10) ** 0.095)  # eq. 1.2
    assert KAPLAN_COMPUTE.loss(PF_DAY) == pytest.approx(3.1e8**0.050)  # eq. 1.3


def test_kaplans_frontier_is_a_billion_at_a_petaflop_day() -> None:
    N, _ = KAPLAN_FRONTIER.optimum(PF_DAY)
    assert pytest.approx(1.3e9) == N
    assert KAPLAN_FRONTIER.optimum(10 * PF_DAY)[0] / N == pytest.approx(10**0.73)


def test_every_method_takes_arrays_of_resamples() -> None:
    many = Chinchilla(*(np.array([value, value * 1.01]) for value in vars(PRINTED).values()))
    N, D = many.optimum(1e21)
    assert N.shape == D.shape == many.loss(N, D).shape == (2,)
    assert N[0] == pytest.approx(PRINTED.optimum(1e21)[0])


def test_repeated_tokens_are_worth_less_each_time() -> None:
    assert effective_tokens(0.5e9, 1e9) == 0.5e9  # less than there is: nothing repeats
    assert effective_tokens(1e9, 1e9) == 1e9
    worth = [float(effective_tokens(epochs * 1e9, 1e9)) / 1e9 for epochs in (2, 4, 16, 40, 1e6)]
    assert worth == pytest.approx([1.968, 3.726, 10.58, 15.17, 16.39], abs=0.01)
