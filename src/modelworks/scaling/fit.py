"""Fitting laws to runs, with bootstrap intervals.

The parametric fits minimise the Huber loss (delta 1e-3) on the logarithm of the loss, summed over runs, from a grid of
starts (Hoffmann et al. 2022, approach 3). Every bootstrap resample draws as many rows as there are, with replacement,
and is fitted from the minima that the best starts came to.

Shapes: S starts or resamples, R rows, P parameters, K terms.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np

from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.core.paths import read_json
from modelworks.scaling.laws import Chinchilla, Frontier, Kaplan, PowerLaw, Value
from modelworks.scaling.minimise import Array, Curve, PowerOfSum, SumOfPowers, minimise
from modelworks.scaling.runs import Counting, Runs

DELTA = 1e-3
RESAMPLES = 1000
FAR = 20
SCHEMA = "modelworks.law/1"
_SPARE = 2  # rows that a fit needs beyond its parameters
_RESTARTS = 6  # starts whose minima each resample is fitted from

Law = Chinchilla | Kaplan | PowerLaw | Frontier
L_co = TypeVar("L_co", bound=Law, covariant=True)
_LAWS: Mapping[str, type[Law]] = {law.name: law for law in (Chinchilla, Kaplan, PowerLaw, Frontier)}


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Fit(Generic[L_co]):
    """A law, the same law on each bootstrap resample (`draws`), and what they were made from."""

    law: L_co
    draws: L_co
    residual_R: Array
    """Logarithm of predicted over observed loss; empty for a frontier, which predicts none."""
    objective: float
    counting: Counting
    rows: int
    reach: Interval
    """The least and the most FLOPs of a run that was fitted; beyond them a law is extrapolated."""

    def interval(self, quantity: Callable[[L_co], Value], *, level: float = 0.95) -> Interval:
        """Of anything that the law says: the quantiles of what its resamples say of it."""
        return _interval(np.asarray(quantity(self.draws)), level)

    def far(self) -> int:
        """How many rows lie far from the law: `FAR` times the median distance."""
        distance_R = np.abs(self.residual_R)
        return int((distance_R > FAR * np.median(distance_R)).sum()) if len(distance_R) else 0

    def parameters(self) -> dict[str, float]:
        return {name: float(value) for name, value in vars(self.law).items()}

    def predict_interval(self, N: float, D: float, *, level: float = 0.95, seed: int = 0) -> Interval:
        """Where the loss of one more run will be: what the law leaves open, and how far runs lie from it.

        Raises ValueError for a law that predicts no loss by N and D.
        """
        if isinstance(self.draws, Frontier | PowerLaw):
            raise ValueError(f"{self.law.name} predicts no loss of a size and its tokens")
        loss_S = np.asarray(self.draws.loss(N, D))
        # Residuals of the rows that were fitted are smaller than those of a row that was not.
        spread = np.sqrt(self.rows / max(self.rows - len(vars(self.law)), 1))
        noise_S = np.random.default_rng(seed).choice(self.residual_R * spread, len(loss_S))
        return _interval(loss_S * np.exp(-noise_S), level)

    def to_json(self) -> dict[str, Any]:
        """Six digits of every resample; the law itself in full, since rounded constants allocate wrongly."""
        return {
            "schema": SCHEMA,
            "law": self.law.name,
            "counting": self.counting,
            "rows": self.rows,
            "flops": list(self.reach),
            "objective": self.objective,
            "parameters": self.parameters(),
            "intervals": {name: list(_interval(np.asarray(draws), 0.95)) for name, draws in vars(self.draws).items()},
            "residuals": _rounded(self.residual_R),
            "draws": {name: _rounded(np.asarray(draws)) for name, draws in vars(self.draws).items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fit[Any]:
        """Raises ModelFileError for what `to_json` has not made."""
        try:
            if value["schema"] != SCHEMA:
                raise ModelFileError(f"schema {value['schema']!r}; this version reads {SCHEMA!r}")
            make = cast(Callable[..., Law], _LAWS[value["law"]])
            if value["counting"] not in ("total", "without embeddings"):
                raise ModelFileError(f"counting is {value['counting']!r}")
            return Fit(
                make(**{name: float(number) for name, number in value["parameters"].items()}),
                make(**{name: np.array(draws, dtype=np.float64) for name, draws in value["draws"].items()}),
                np.array(value["residuals"], dtype=np.float64),
                float(value["objective"]),
                value["counting"],
                int(value["rows"]),
                Interval(*(float(flops) for flops in value["flops"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"not a law that was saved: {error!r}") from error


def load_fit(path: Path) -> Fit[Any]:
    """A law that `modelworks plan fit --save` wrote. Raises ModelFileError for anything else."""
    try:
        return Fit.from_json(read_json(path))
    except ModelFileError as error:
        raise error if str(path) in str(error) else ModelFileError(f"{path}: {error}") from error


def save_fit(fit: Fit[Any], path: Path) -> None:
    path.write_text(json.dumps(fit.to_json()) + "\n", encoding="utf-8")


def _interval(value_S: Array, level: float) -> Interval:
    low, high = np.quantile(value_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _rounded(value_S: Array) -> list[float]:
    return [float(f"{value:.6g}") for value in value_S]


# --- the fits ---------------------------------------------------------------------------------------------------------


def fit_chinchilla(runs: Runs, *, delta: float = DELTA, resamples: int = RESAMPLES, seed: int = 0) -> Fit[Chinchilla]:
    """Approach 3: E, A, alpha, B, beta. Raises ConfigError for too few runs, sizes or amounts of data."""
    _check_enough(runs, parameters=5)
    x_R, mean_N = _centred(runs.N_R)
    y_R, mean_D = _centred(runs.D_R)
    none_R, one_R = np.zeros(len(runs)), np.ones(len(runs))
    # By rows E, A / N^alpha and B / D^beta; by columns log E, log A - alpha mean, log B - beta mean, alpha, beta. With
    # the means taken out, a term's height and its slope hardly trade against each other.
    x_KRP = np.stack(
        [
            np.stack([one_R, none_R, none_R, none_R, none_R], -1),
            np.stack([none_R, one_R, none_R, -x_R, none_R], -1),
            np.stack([none_R, none_R, one_R, none_R, -y_R], -1),
        ]
    )
    level = float(np.log(runs.loss_R).mean())
    shares = [(0.6, 0.2, 0.2), (0.2, 0.6, 0.2), (0.2, 0.2, 0.6)]
    starts_SP = np.array(
        [
            (*(np.log(share) + level), *slopes)
            for share in shares
            for slopes in itertools.product((0.1, 0.35, 0.8), repeat=2)
        ]
    )

    def law(theta_SP: Array) -> Chinchilla:
        e_S, a_S, b_S, alpha_S, beta_S = theta_SP.T
        return Chinchilla(np.exp(e_S), np.exp(a_S + alpha_S * mean_N), alpha_S, np.exp(b_S + beta_S * mean_D), beta_S)

    return _fit(SumOfPowers(x_KRP), runs, starts_SP, law, delta, resamples, seed)


def fit_kaplan(runs: Runs, *, delta: float = DELTA, resamples: int = RESAMPLES, seed: int = 0) -> Fit[Kaplan]:
    """N_c, alpha_N, D_c, alpha_D of eq. 1.5. Raises ConfigError for too few runs, sizes or amounts of data."""
    _check_enough(runs, parameters=4)
    x_R, mean_N = _centred(runs.N_R)
    y_R, mean_D = _centred(runs.D_R)
    none_R, one_R = np.zeros(len(runs)), np.ones(len(runs))
    # alpha_D log(exp(p - q x) + exp(d - y)), q = alpha_N / alpha_D.
    x_KRP = np.stack([np.stack([one_R, -x_R, none_R], -1), np.stack([none_R, none_R, one_R], -1)])
    level = float(np.log(runs.loss_R).mean())
    starts_SP = np.array(
        [
            (alpha, level / alpha + np.log(share), ratio, level / alpha + np.log(1 - share))
            for alpha, ratio, share in itertools.product((0.05, 0.1, 0.3), (0.5, 1.0, 2.0), (0.1, 0.5, 0.9))
        ]
    )

    def law(theta_SP: Array) -> Kaplan:
        alpha_S, p_S, q_S, d_S = theta_SP.T
        return Kaplan(np.exp(p_S / q_S + mean_N), q_S * alpha_S, np.exp(d_S + mean_D), alpha_S)

    return _fit(PowerOfSum(x_KRP, np.stack([none_R, -y_R])), runs, starts_SP, law, delta, resamples, seed)


def fit_power(
    x_R: Array,
    loss_R: Array,
    *,
    counting: Counting = "total",
    delta: float = DELTA,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Fit[PowerLaw]:
    """Eq. 1.1 to 1.3: of runs that only `x` (size, data or compute) holds back. Raises ConfigError for too few runs."""
    runs = Runs(x_R, x_R, x_R, loss_R, counting)
    _check_enough(runs, parameters=2)
    log_R, mean = _centred(x_R)
    x_KRP = np.stack([np.ones(len(runs)), -log_R], -1)[None]
    starts_SP = np.array([[float(np.log(loss_R).mean()), 0.1]])

    def law(theta_SP: Array) -> PowerLaw:
        height_S, alpha_S = theta_SP.T
        return PowerLaw(np.exp(height_S / alpha_S + mean), alpha_S)

    return _fit(SumOfPowers(x_KRP), runs, starts_SP, law, delta, resamples, seed)


def _centred(value_R: Array) -> tuple[Array, float]:
    log_R = np.log(value_R)
    return log_R - log_R.mean(), float(log_R.mean())


def _check_enough(runs: Runs, *, parameters: int) -> None:
    least = parameters + _SPARE
    if len(runs) < least:
        raise ConfigError(f"{len(runs)} rows are too few for a law of {parameters} parameters; it takes {least}")
    for what, value_R in (("sizes", runs.N_R), ("amounts of tokens", runs.D_R)):
        different = len(np.unique(value_R))
        if different < 3:
            raise ConfigError(f"only {different} different {what} are there; a slope that bends takes 3")


def _fit(
    curve: Curve,
    runs: Runs,
    starts_SP: Array,
    law: Callable[[Array], L_co],
    delta: float,
    resamples: int,
    seed: int,
) -> Fit[L_co]:
    y_R = np.log(runs.loss_R)
    found = minimise(curve, y_R, starts_SP, delta=delta)
    best = int(found.objective_S.argmin())
    if not np.isfinite(found.objective_S[best]):
        raise ConfigError("no law of this form comes near these runs")
    theta_P = found.theta_SP[best]
    R = len(runs)
    count_SR = np.random.default_rng(seed).multinomial(R, np.full(R, 1 / R), size=max(resamples, 1)).astype(np.float64)
    # Where the runs leave several minima, a resample may prefer another than all of them together.
    others = [at for at in found.objective_S.argsort() if found.settled_S[at]][:_RESTARTS]
    minima_MP = np.unique(np.round(found.theta_SP[[best, *others]], 6), axis=0)
    again = [
        minimise(curve, y_R, np.broadcast_to(start_P, (len(count_SR), len(theta_P))), delta=delta, weight_SR=count_SR)
        for start_P in minima_MP
    ]
    pick_S = np.stack([minima.objective_S for minima in again]).argmin(0)
    draws_SP = np.stack([minima.theta_SP for minima in again])[pick_S, np.arange(len(count_SR))]
    one = law(theta_P[None])
    return Fit(
        type(one)(**{name: float(value[0]) for name, value in vars(one).items()}),
        law(draws_SP),
        curve(theta_P[None])[0][0] - y_R,
        float(found.objective_S[best]),
        runs.counting,
        R,
        Interval(float(runs.C_R.min()), float(runs.C_R.max())),
    )
