"""The compute-optimal size straight from runs: Hoffmann's approaches 1 (envelope of curves) and 2 (IsoFLOP parabolas).

Neither assumes a form of the loss, and neither gives one. A parabola is not the law's shape: where size and data have
different exponents its minimum is off, by some tenths for exponents of .2 and .45, even on losses without noise; and
where the sizes that were tried lie otherwise about the optimum at small budgets than at large ones, the exponent is
off as well. Prefer `fit.fit_chinchilla` where there are runs enough for it.

Shapes: S resamples, R rows, G budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError
from modelworks.scaling.fit import RESAMPLES, Fit, Interval
from modelworks.scaling.laws import Frontier
from modelworks.scaling.minimise import Array
from modelworks.scaling.runs import Runs

TOLERANCE = 0.05
"""Powers of ten that a run's FLOPs may lie from its budget."""
_LEAST = 4  # runs for a parabola that is not merely drawn through them
_GRID = 1500  # budgets at which approach 1 asks for the best run, as Hoffmann et al. did


class Parabola(NamedTuple):
    """Loss by log N at one budget: `lift` + `bend` (log N - log N_opt)^2."""

    budget: float
    N_opt: float
    lift: float
    bend: float
    rows: NDArray[np.intp]


class IsoFLOP(NamedTuple):
    fit: Fit[Frontier]
    parabolas: tuple[Parabola, ...]
    left_out: tuple[str, ...]
    """Budgets that take no part, each with its reason."""


def find_budgets(runs: Runs, *, tolerance: float = TOLERANCE) -> list[float]:
    """Budgets that four runs or more share: the densest first, then the densest of what is left."""
    log_R = np.log10(runs.C_R)
    left = np.ones(len(runs), dtype=bool)
    found = []
    while left.any():
        near_RR = (np.abs(log_R[:, None] - log_R) <= tolerance) & left
        centre = int((near_RR.sum(1) * left).argmax())
        if near_RR[centre].sum() < _LEAST:
            break
        found.append(float(10 ** log_R[near_RR[centre]].mean()))
        left &= ~near_RR[centre]
    return sorted(found)


def fit_isoflop(
    runs: Runs,
    budgets: Sequence[float] | None = None,
    *,
    tolerance: float = TOLERANCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> IsoFLOP:
    """Approach 2: a parabola in log N for each budget, and a power law through their minima (Hoffmann, section 3.2).

    Resamples are drawn within each budget. Budgets are found where none are given. Raises ConfigError where fewer than
    two budgets have a minimum among the sizes that were tried.
    """
    generator = np.random.default_rng(seed)
    parabolas, left_out, centre_GS = list[Parabola](), list[str](), list[Array]()
    for budget in sorted(find_budgets(runs, tolerance=tolerance) if budgets is None else budgets):
        rows = np.flatnonzero(np.abs(np.log10(runs.C_R / budget)) <= tolerance)
        x_R, loss_R = np.log(runs.N_R[rows]), runs.loss_R[rows]
        reason = ""
        if len(rows) < _LEAST or len(np.unique(x_R)) < 3:
            reason = f"{len(rows)} runs of {len(np.unique(x_R))} sizes are too few for a parabola"
        else:
            centre, lift, bend = (float(value[0]) for value in _parabolas(x_R, loss_R, np.ones((1, len(rows)))))
            if not bend > 0:
                reason = "its losses have no minimum"
            elif not x_R.min() <= centre <= x_R.max():
                reason = "its minimum lies outside the sizes that were tried"
        if reason:
            left_out.append(f"{budget:.3g} FLOPs: {reason}")
            continue
        parabolas.append(Parabola(float(budget), float(np.exp(centre)), lift, bend, rows))
        count_SR = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
        centre_S, _, bend_S = _parabolas(x_R, loss_R, count_SR.astype(np.float64))
        inside_S = (bend_S > 0) & (centre_S >= x_R.min()) & (centre_S <= x_R.max())
        centre_GS.append(np.where(inside_S, centre_S, np.nan))
    if len(parabolas) < 2:
        said = "; ".join(left_out) or "no budget has four runs"
        raise ConfigError(f"parabolas need two budgets with a minimum among the sizes tried: {said}")
    log_C_G = np.log([parabola.budget for parabola in parabolas])
    law, error = _line(log_C_G, np.log([[parabola.N_opt] for parabola in parabolas]))
    draws, _ = _line(log_C_G, np.stack(centre_GS))
    one = Frontier(float(np.asarray(law.k)[0]), float(np.asarray(law.a)[0]))
    used = sum(len(parabola.rows) for parabola in parabolas)
    reach = Interval(parabolas[0].budget, parabolas[-1].budget)
    fit = Fit(one, draws, np.zeros(0), float(error[0]), runs.counting, used, reach)
    return IsoFLOP(fit, tuple(parabolas), tuple(left_out))


def fit_envelope(runs: Runs, *, resamples: int = RESAMPLES // 5, seed: int = 0) -> Fit[Frontier]:
    """Approach 1: which run has the lowest loss at each of 1,500 budgets, and a power law through their sizes.

    Rows are points of training curves, told apart by `runs.run`; curves are straight in log C and log loss between
    points. The smallest and the largest size win where nothing beyond them was tried, so what they win does not count.
    Resamples draw whole runs. A curve's middle is worse than a run that ends there, since its learning rate has not
    come down: give each size several lengths. Raises ConfigError where fewer than two sizes between the smallest and
    the largest win anywhere.
    """
    if not runs.run:
        raise ConfigError("approach 1 needs points of training curves: several rows a run, and a column run")
    names = sorted(set(runs.run))
    if len(names) == len(runs):
        raise ConfigError("approach 1 needs points of training curves; here every run has one row")
    of_run = np.asarray(runs.run, dtype=object)
    grid_G = np.linspace(np.log(runs.C_R.min()), np.log(runs.C_R.max()), _GRID)
    log_N = np.empty(len(names))
    curves = np.full((len(names), _GRID), np.inf)
    for at, name in enumerate(names):
        rows = np.flatnonzero(of_run == name)
        rows = rows[np.argsort(runs.C_R[rows])]
        if len(np.unique(runs.N_R[rows])) > 1:
            raise ConfigError(f"run {name!r} has rows of several sizes")
        log_N[at] = np.log(runs.N_R[rows[0]])
        curves[at] = np.interp(grid_G, np.log(runs.C_R[rows]), np.log(runs.loss_R[rows]), left=np.inf, right=np.inf)
    generator = np.random.default_rng(seed)
    everything = np.arange(len(names))
    found = _envelope(log_N, curves, grid_G)
    if found is None:
        raise ConfigError("fewer than two sizes between the smallest and the largest are the best at any budget")
    drawn = [
        _envelope(log_N[some], curves[some], grid_G)
        for some in (np.unique(generator.choice(everything, len(everything))) for _ in range(resamples))
    ]
    kept = [draw for draw in drawn if draw is not None] or [found]
    draws = Frontier(np.array([draw[0].k for draw in kept]), np.array([draw[0].a for draw in kept]))
    reach = Interval(float(runs.C_R.min()), float(runs.C_R.max()))
    return Fit(found[0], draws, np.zeros(0), found[1], runs.counting, len(runs), reach)


def _parabolas(x_R: Array, y_R: Array, weight_SR: Array) -> tuple[Array, Array, Array]:
    """Centre, lift and bend of the weighted parabola of each row of weights; NaN where three sizes are not there."""
    scaled_R = (x_R - x_R.mean()) / x_R.std()
    basis_RP = np.stack([np.ones_like(scaled_R), scaled_R, scaled_R**2], -1)
    normal_SPP = np.einsum("sr,rp,rq->spq", weight_SR, basis_RP, basis_RP)
    right_SP = np.einsum("sr,rp,r->sp", weight_SR, basis_RP, y_R)
    sound_S = np.linalg.cond(normal_SPP) < 1e10
    normal_SPP[~sound_S] = np.eye(3)
    a_S, b_S, c_S = np.linalg.solve(normal_SPP, right_SP[..., None])[..., 0].T
    with np.errstate(divide="ignore", invalid="ignore"):
        centre_S = -b_S / (2 * c_S)
        lift_S = a_S - b_S**2 / (4 * c_S)
    gone_S = np.where(sound_S, 0.0, np.nan)
    return centre_S * x_R.std() + x_R.mean() + gone_S, lift_S + gone_S, c_S / x_R.std() ** 2 + gone_S


def _line(log_C_G: Array, log_N_GS: Array) -> tuple[Frontier, Array]:
    """The power law through each column's points, and the squares that remain; columns of one point are left out."""
    there_GS = np.isfinite(log_N_GS)
    keep_S = there_GS.sum(0) >= 2
    there_GS, y_GS = there_GS[:, keep_S], np.nan_to_num(log_N_GS[:, keep_S])
    count_S = there_GS.sum(0)
    x_GS = np.where(there_GS, log_C_G[:, None], 0.0)
    x_GS = np.where(there_GS, x_GS - x_GS.sum(0) / count_S, 0.0)
    mean_S = y_GS.sum(0) / count_S
    a_S = (x_GS * y_GS).sum(0) / (x_GS**2).sum(0)
    left_S = (np.where(there_GS, y_GS - mean_S - a_S * x_GS, 0.0) ** 2).sum(0)
    centre_S = (there_GS * log_C_G[:, None]).sum(0) / count_S
    return Frontier(np.exp(mean_S - a_S * centre_S), a_S), left_S


def _envelope(log_N: Array, curves: Array, grid_G: Array) -> tuple[Frontier, float] | None:
    best_G = curves.argmin(0)
    N_G = log_N[best_G]
    # Where only one run has been, it is no winner; neither is one at the edge of the sizes.
    inner_G = (np.isfinite(curves).sum(0) >= 2) & (log_N.min() < N_G) & (log_N.max() > N_G)
    if len(np.unique(N_G[inner_G])) < 2:
        return None
    law, error = _line(grid_G[inner_G], N_G[inner_G][:, None])
    return Frontier(float(np.asarray(law.k)[0]), float(np.asarray(law.a)[0])), float(error[0])
