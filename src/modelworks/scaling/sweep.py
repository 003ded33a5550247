"""Sweeps of small models: which to train under a budget, and what their losses say of a larger one.

Sizes are a geometric row. Each budget trains the few of them about its expected optimum, so that runs of equal compute
bracket a minimum (approach 2), while sizes and tokens both vary for the parametric fit (approach 3). The next budget is
larger by the square of the sizes' step, since the optimum grows as its root. Training itself is `train.sweep`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modelworks.core.errors import ConfigError
from modelworks.scaling.fit import RESAMPLES, Interval, fit_chinchilla
from modelworks.scaling.runs import FLOPS_PER_PARAMETER, Runs
from modelworks.scaling.shapes import count_parameters, shape_for


@dataclass(frozen=True)
class SweepRun:
    """One training run: its config, total parameters, tokens, and FLOPs as 6 N D."""

    name: str
    config: dict[str, Any]
    parameters: int
    tokens: int

    @property
    def flops(self) -> float:
        return float(FLOPS_PER_PARAMETER) * self.parameters * self.tokens


def plan_sweep(
    flops: float,
    *,
    vocabulary: int,
    context: int,
    budgets: int = 3,
    sizes: int = 5,
    step: float = 2.0,
    tokens_per_parameter: float = 20.0,
) -> list[SweepRun]:
    """Runs that together take `flops`, the cheapest first; `tokens_per_parameter` is the optimum that is expected.

    Raises ConfigError for a design that is no sweep and for a budget in which the vocabulary leaves no room for layers.
    """
    if budgets < 2 or sizes < 3 or step <= 1 or tokens_per_parameter <= 0:
        raise ConfigError("a sweep takes 2 budgets or more, 3 sizes or more at each, and a step above 1")
    growth = step**2
    largest = flops / sizes / sum(growth**-at for at in range(budgets))
    runs = []
    for at in reversed(range(budgets)):
        budget = largest * growth**-at
        optimum = (budget / (FLOPS_PER_PARAMETER * tokens_per_parameter)) ** 0.5
        for place in range(sizes):
            wanted = optimum * step ** (place - sizes // 2)
            try:
                config = shape_for(wanted, vocabulary=vocabulary, context=context)
            except ConfigError as error:
                raise ConfigError(f"a sweep of {flops:.3g} FLOPs is too small: {error}") from error
            parameters = count_parameters(config)
            tokens = round(budget / (FLOPS_PER_PARAMETER * parameters))
            runs.append(SweepRun(f"c{budgets - at}-{_short(parameters)}", config, parameters, tokens))
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"{flops:.3g} FLOPs are too few to tell {sizes} sizes apart with {vocabulary} tokens")
    return runs


def _short(number: float) -> str:
    for unit, scale in (("b", 1e9), ("m", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.0f}"


@dataclass(frozen=True)
class Prediction:
    """Of a run that took no part in the fit: what was predicted, where one more run should lie, what it reached."""

    N: float
    D: float
    predicted: float
    interval: Interval
    reached: float
    nearest: float
    """The baseline: the loss of the run of the next smaller size whose compute is nearest."""

    @property
    def within(self) -> bool:
        return self.interval.low <= self.reached <= self.interval.high


def predict_largest(runs: Runs, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> list[Prediction]:
    """Leave the largest size out, fit approach 3 to the others, and predict each of its runs.

    Raises ConfigError where the others are too few for a fit.
    """
    largest = runs.N_R.max() <= runs.N_R
    rest, out = runs[~largest], runs[largest]
    fit = fit_chinchilla(rest, resamples=resamples, seed=seed)
    below = rest[rest.N_R.max() <= rest.N_R]
    found = []
    for N, D, C, reached in zip(out.N_R, out.D_R, out.C_R, out.loss_R):
        nearest = int(np.abs(np.log(below.C_R / C)).argmin())
        found.append(
            Prediction(
                float(N),
                float(D),
                float(fit.law.loss(N, D)),
                fit.predict_interval(N, D, level=level, seed=seed),
                float(reached),
                float(below.loss_R[nearest]),
            )
        )
    return found
