"""Approaches 1 and 2."""

from __future__ import annotations

import numpy as np
import pytest

from modelworks.core.errors import ConfigError
from modelworks.scaling.fit import fit_chinchilla
from modelworks.scaling.frontier import find_budgets, fit_envelope, fit_isoflop
from modelworks.scaling.laws import Chinchilla
from modelworks.scaling.runs import Runs, make_runs

BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)  # Hoffmann et al., section 3.2


def isoflop_runs(law: Chinchilla, *, drift: float = 0.0, noise: float = 0.0) -> Runs:
    """Eleven sizes about the optimum of nine budgets; with `drift` ever larger ones."""
    C_R = np.repeat(np.geomspace(1e18, 1e22, 9), 11)
    N_R = law.optimum(C_R)[0] * np.tile(np.geomspace(1 / 8, 8, 11), 9) * (C_R / 1e20) ** drift
    D_R = C_R / (6 * N_R)
    loss_R = law.loss(N_R, D_R) * np.exp(np.random.default_rng(0).normal(0, noise, len(N_R)))
    return make_runs(N_R, D_R, loss_R)


def test_hoffmanns_nine_budgets(points: Runs) -> None:
    found = fit_isoflop(points, BUDGETS)
    assert found.fit.law.a == pytest.approx(0.502, abs=5e-4)
    assert len(found.parabolas) == 9
    low, high = found.fit.interval(lambda law: law.a)
    assert low < 0.49 < 0.502 < high  # .49 is what Hoffmann et al. print
    assert find_budgets(points)[0] == pytest.approx(6e18, rel=0.15)


def test_parabolas_are_biased_where_the_exponents_differ() -> None:
    """Without noise: the law's own fit is exact, parabolas miss the size, and under drift the exponent."""
    law = Chinchilla(1.8, 480.0, 0.2, 2000.0, 0.45)
    runs = isoflop_runs(law)
    parabolas, parametric = fit_isoflop(runs, resamples=1).fit.law, fit_chinchilla(runs, resamples=1).law
    true = law.optimum(1e24)[0]
    assert parametric.optimum(1e24)[0] == pytest.approx(true, rel=1e-6)
    assert parabolas.optimum(1e24)[0] / true < 0.9
    drifting = fit_isoflop(isoflop_runs(law, drift=0.1), resamples=1).fit.law
    assert abs(drifting.a - law.exponent) > 1e-3


def test_parabolas_are_right_where_the_exponents_are_equal() -> None:
    law = Chinchilla(1.8, 480.0, 0.35, 2000.0, 0.35)
    found = fit_isoflop(isoflop_runs(law), resamples=1)
    assert found.fit.law.a == pytest.approx(0.5, abs=1e-9)
    assert found.fit.law.optimum(1e24)[0] == pytest.approx(law.optimum(1e24)[0], rel=1e-6)


def test_the_interval_of_the_exponent_covers_it() -> None:
    law = Chinchilla(1.8, 480.0, 0.35, 2000.0, 0.35)
    low, high = fit_isoflop(isoflop_runs(law, noise=0.003)).fit.interval(lambda law: law.a)
    assert low < 0.5 < high
    assert high - low < 0.1


def test_a_budget_without_a_minimum_is_left_out_by_name() -> None:
    law = Chinchilla(1.8, 480.0, 0.35, 2000.0, 0.35)
    runs = isoflop_runs(law)
    largest = runs.C_R > 5e21
    kept = ~largest | (2 * law.optimum(1e22)[0] < runs.N_R)  # only sizes beyond the optimum
    found = fit_isoflop(runs[kept], resamples=5)
    assert len(found.parabolas) == 8
    assert found.left_out == ("1e+22 FLOPs: its minimum lies outside the sizes that were tried",)
    with pytest.raises(ConfigError, match="1e\\+22 FLOPs: its minimum lies outside"):
        fit_isoflop(runs[kept & largest])
    with pytest.raises(ConfigError, match="no budget has four runs"):
        fit_isoflop(runs[np.arange(0, 99, 11)])


def curves(law: Chinchilla) -> Runs:
    N_RR, D_RR = np.meshgrid(np.geomspace(1e7, 1e10, 25), np.geomspace(1e7, 1e14, 120), indexing="ij")
    N_R, D_R = N_RR.ravel(), D_RR.ravel()
    return make_runs(N_R, D_R, law.loss(N_R, D_R), run=tuple(f"{N:.4g}" for N in N_R))


def test_the_envelope_of_curves_finds_the_frontier() -> None:
    law = Chinchilla(1.8, 480.0, 0.34, 2000.0, 0.28)
    found = fit_envelope(curves(law), resamples=20)
    assert found.law.a == pytest.approx(law.exponent, abs=0.01)
    assert found.law.optimum(1e21)[0] == pytest.approx(law.optimum(1e21)[0], rel=0.1)
    low, high = found.interval(lambda law: law.a)
    assert low <= law.exponent + 0.01
    assert high >= law.exponent - 0.01


def test_the_envelope_needs_curves() -> None:
    law = Chinchilla(1.8, 480.0, 0.34, 2000.0, 0.28)
    with pytest.raises(ConfigError, match="column run"):
        fit_envelope(isoflop_runs(law))
    runs = curves(law)
    with pytest.raises(ConfigError, match="fewer than two sizes"):
        fit_envelope(runs[runs.N_R > 7e9])
