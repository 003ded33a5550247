"""Fits: the published numbers come out, and what was put in comes out."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.scaling.fit import Fit, fit_chinchilla, fit_kaplan, fit_power, load_fit, save_fit
from modelworks.scaling.laws import Chinchilla, Kaplan
from modelworks.scaling.minimise import SumOfPowers, minimise
from modelworks.scaling.runs import Runs, make_runs

PUBLISHED = {  # the replication's 95% intervals
    "E": (1.769, 1.871),
    "A": (285, 744),
    "alpha": (0.317, 0.373),
    "B": (1042, 5810),
    "beta": (0.331, 0.415),
}
LAW = Chinchilla(E=1.7, A=400.0, alpha=0.34, B=900.0, beta=0.28)


def grid(law, *, noise: float = 0.0, seed: int = 0, sizes: int = 6) -> Runs:
    N_R, D_R = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, sizes), np.geomspace(1e8, 1e11, sizes)))
    loss_R = law.loss(N_R, D_R) * np.exp(np.random.default_rng(seed).normal(0, noise, len(N_R)))
    return make_runs(N_R, D_R, loss_R)


@pytest.fixture(scope="module")
def fitted(points: Runs) -> Fit[Chinchilla]:
    return fit_chinchilla(points.without_highest(5))


def test_the_published_fit_of_hoffmanns_runs(fitted: Fit[Chinchilla]) -> None:
    assert fitted.rows == 240
    assert fitted.counting == "total"
    assert fitted.objective == pytest.approx(0.00101827, abs=5e-9)
    assert pytest.approx(477.8, abs=0.1) == fitted.law.A
    assert pytest.approx(2143, abs=1) == fitted.law.B
    assert pytest.approx(1.8172, abs=5e-5) == fitted.law.E
    assert fitted.law.alpha == pytest.approx(0.3473, abs=5e-5)
    assert fitted.law.beta == pytest.approx(0.3672, abs=5e-5)
    assert fitted.law.exponent == pytest.approx(0.514, abs=5e-4)
    ratio = np.divide(*reversed(fitted.law.optimum(5.76e23)))
    assert ratio == pytest.approx(17.9, abs=0.1)


def test_the_bootstrap_finds_the_published_intervals(fitted: Fit[Chinchilla]) -> None:
    for name, published in PUBLISHED.items():
        low, high = fitted.interval(lambda law, name=name: getattr(law, name))
        assert low == pytest.approx(published[0], rel=0.03), name
        assert high == pytest.approx(published[1], rel=0.05), name


def test_five_runs_that_went_wrong_decide_b(points: Runs) -> None:
    """All 245 rows: the trap of not looking at the losses."""
    fit = fit_chinchilla(points, resamples=1)
    assert pytest.approx(12846, rel=1e-3) == fit.law.B
    assert fit.far() == 4
    assert fit_chinchilla(points.without_highest(5), resamples=1).far() == 0


def test_hoffmanns_printed_values_are_a_start_like_any_other(points: Runs) -> None:
    """L-BFGS stalls there at .0011633."""
    runs = points.without_highest(5)
    x_R, y_R = np.log(runs.N_R), np.log(runs.D_R)
    none_R, one_R = np.zeros(len(runs)), np.ones(len(runs))
    rows = [(one_R, *[none_R] * 4), (none_R, one_R, none_R, -x_R, none_R), (none_R, none_R, one_R, none_R, -y_R)]
    curve = SumOfPowers(np.stack([np.stack(row, -1) for row in rows]))
    start_SP = np.array([[np.log(1.69), np.log(406.4), np.log(410.7), 0.34, 0.28]])
    found = minimise(curve, np.log(runs.loss_R), start_SP, delta=1e-3)
    assert found.objective_S[0] == pytest.approx(0.00101827, abs=5e-9)


@pytest.mark.slow
def test_hoffmanns_grid_of_4500_starts_finds_nothing_lower(points: Runs, fitted: Fit[Chinchilla]) -> None:
    runs = points.without_highest(5)
    x_R, y_R = np.log(runs.N_R), np.log(runs.D_R)
    none_R, one_R = np.zeros(len(runs)), np.ones(len(runs))
    rows = [(one_R, *[none_R] * 4), (none_R, one_R, none_R, -x_R, none_R), (none_R, none_R, one_R, none_R, -y_R)]
    curve = SumOfPowers(np.stack([np.stack(row, -1) for row in rows]))
    starts = itertools.product(
        (-1, -0.5, 0, 0.5, 1), range(0, 30, 5), range(0, 30, 5), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2)
    )
    found = minimise(curve, np.log(runs.loss_R), np.array(list(starts)), delta=1e-3)
    assert found.objective_S.min() >= fitted.objective * (1 - 1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(0.34, 0.28), (0.2, 0.45), (0.5, 0.5)])
def test_a_law_without_noise_comes_out_as_it_went_in(alpha: float, beta: float) -> None:
    law = Chinchilla(1.7, 400.0, alpha, 900.0, beta)
    found = fit_chinchilla(grid(law), resamples=1)
    assert list(found.parameters().values()) == pytest.approx(list(vars(law).values()), rel=1e-6)
    assert found.objective < 1e-15


def test_kaplans_law_comes_out_as_it_went_in() -> None:
    law = Kaplan(N_c=6.4e13, alpha_N=0.076, D_c=1.8e13, alpha_D=0.103)
    found = fit_kaplan(grid(law), resamples=20)
    assert list(found.parameters().values()) == pytest.approx(list(vars(law).values()), rel=1e-5)
    power = fit_power(np.geomspace(1e6, 1e9, 5), law.loss(np.geomspace(1e6, 1e9, 5), float("inf")), resamples=1)
    assert power.law.alpha == pytest.approx(0.076)
    assert power.law.scale == pytest.approx(6.4e13, rel=1e-6)


def test_a_prediction_interval_holds_as_often_as_it_says() -> None:
    """A size ten times the largest, 40 sweeps: 95% +- chance."""
    within = 0
    for seed in range(40):
        fit = fit_chinchilla(grid(LAW, noise=0.01, seed=seed), resamples=100, seed=seed)
        reached = LAW.loss(1e10, 1e12) * np.exp(np.random.default_rng(1000 + seed).normal(0, 0.01))
        low, high = fit.predict_interval(1e10, 1e12)
        within += low <= reached <= high
    assert 34 <= within <= 40


def test_resamples_are_seeded() -> None:
    runs = grid(LAW, noise=0.01)
    one, same, other = (fit_chinchilla(runs, resamples=30, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.draws.A, same.draws.A)
    assert not np.array_equal(one.draws.A, other.draws.A)
    assert one.predict_interval(1e9, 1e10) == same.predict_interval(1e9, 1e10)


def test_too_little_is_refused() -> None:
    few = make_runs(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e9, 6), np.linspace(4, 3, 6))
    with pytest.raises(ConfigError, match="6 rows are too few for a law of 5 parameters; it takes 7"):
        fit_chinchilla(few)
    one_size = make_runs(np.full(9, 1e6), np.geomspace(1e8, 1e9, 9), np.linspace(4, 3, 9))
    with pytest.raises(ConfigError, match="only 1 different sizes"):
        fit_kaplan(one_size)


def test_a_saved_law_is_the_same(fitted: Fit[Chinchilla], tmp_path) -> None:
    save_fit(fitted, tmp_path / "law.json")
    again = load_fit(tmp_path / "law.json")
    assert again.law == fitted.law  # every digit
    assert (again.counting, again.rows, again.reach) == (fitted.counting, fitted.rows, fitted.reach)
    assert pytest.approx(fitted.draws.B, rel=1e-5) == again.draws.B


@pytest.mark.parametrize(
    "damage",
    [{"schema": "modelworks.law/9"}, {"law": "moore"}, {"parameters": {"E": 1}}, {"counting": "some"}, {"draws": 3}],
)
def test_what_is_no_saved_law_is_refused(fitted: Fit[Chinchilla], tmp_path, damage) -> None:
    (tmp_path / "law.json").write_text(json.dumps(fitted.to_json() | damage))
    with pytest.raises(ModelFileError, match=r"law\.json"):
        load_fit(tmp_path / "law.json")
