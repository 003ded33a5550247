"""Sweeps: they cost what they may, bracket an optimum, and predict what they left out."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from modelworks.core.errors import ConfigError
from modelworks.scaling.frontier import fit_isoflop
from modelworks.scaling.laws import Chinchilla
from modelworks.scaling.plan import build, size_of
from modelworks.scaling.runs import Runs, make_runs
from modelworks.scaling.sweep import SweepRun, plan_sweep, predict_largest

LAW = Chinchilla(1.8, 480.0, 0.34, 2000.0, 0.37)


def losses(runs: list[SweepRun], *, noise: float, seed: int = 0) -> Runs:
    N_R, D_R = (np.array(column, dtype=float) for column in zip(*((run.parameters, run.tokens) for run in runs)))
    loss_R = LAW.loss(N_R, D_R) * np.exp(np.random.default_rng(seed).normal(0, noise, len(runs)))
    return make_runs(N_R, D_R, loss_R)


@pytest.mark.parametrize(("flops", "vocabulary", "step"), [(6e13, 512, 1.6), (1e16, 8192, 2.0), (1e20, 32_000, 2.0)])
def test_a_sweep_costs_its_budget_and_brackets_the_optimum(flops: float, vocabulary: int, step: float) -> None:
    runs = plan_sweep(flops, vocabulary=vocabulary, context=128, step=step)
    assert sum(run.flops for run in runs) == pytest.approx(flops, rel=1e-3)
    by_budget = defaultdict(list)
    for run in runs:
        assert size_of(build(run.config)).total == run.parameters
        by_budget[round(np.log10(run.flops), 2)].append(run.tokens / run.parameters)
    assert len(by_budget) == 3
    for ratios in by_budget.values():
        assert len(ratios) == 5
        assert min(ratios) < 20 < max(ratios)
    assert len({run.name for run in runs}) == len(runs)


def test_its_runs_serve_approach_2() -> None:
    runs = losses(plan_sweep(1e18, vocabulary=8192, context=256), noise=0.001)
    found = fit_isoflop(runs, resamples=100)
    assert len(found.parabolas) == 3
    low, high = found.fit.interval(lambda law: law.a)
    assert low - 0.02 < LAW.exponent < high + 0.02


def test_the_largest_size_is_predicted_within_its_interval_as_often_as_said() -> None:
    planned = plan_sweep(1e18, vocabulary=8192, context=256)
    found = [predict_largest(losses(planned, noise=0.005, seed=seed), resamples=100)[0] for seed in range(40)]
    assert sum(one.within for one in found) >= 34
    off = np.mean([abs(one.predicted - one.reached) for one in found])
    assert off < 0.5 * np.mean([abs(one.nearest - one.reached) for one in found])
    assert max(run.parameters for run in planned) == found[0].N


def test_a_sweep_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 sizes or more"):
        plan_sweep(1e18, vocabulary=512, context=128, sizes=2)
    with pytest.raises(ConfigError, match="a sweep of 1e\\+10 FLOPs is too small"):
        plan_sweep(1e10, vocabulary=512, context=128)
    with pytest.raises(ConfigError, match="too few"):
        predict_largest(losses(plan_sweep(1e18, vocabulary=512, context=128)[:5], noise=0))
