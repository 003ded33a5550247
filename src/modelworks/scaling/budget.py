"""What a law makes of a budget, and of a model that was trained."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelworks.scaling.fit import Fit, Interval, load_fit
from modelworks.scaling.laws import KAPLAN_FRONTIER, Frontier, PowerLaw, Value, effective_tokens
from modelworks.scaling.runs import FLOPS_PER_PARAMETER, Counting

_CHINCHILLA = Path(__file__).parent / "assets" / "chinchilla.json"


@functools.cache
def chinchilla() -> Fit[Any]:
    """Approach 3 on Hoffmann's runs, fitted here with all its digits and resamples; see docs/scaling.md."""
    return load_fit(_CHINCHILLA)


@functools.cache
def kaplan() -> Fit[Frontier]:
    """Kaplan's compute-efficient sizes as printed: no interval is known, and no reach."""
    one = Frontier(np.array([KAPLAN_FRONTIER.k]), np.array([KAPLAN_FRONTIER.a]))
    return Fit(KAPLAN_FRONTIER, one, np.zeros(0), 0.0, "without embeddings", 0, Interval(0.0, float("inf")))


@dataclass(frozen=True)
class Allocation:
    """The best size and tokens for a budget, with 95% intervals; no loss where the law predicts none."""

    flops: float
    counting: Counting
    N: float
    D: float
    N_interval: Interval
    D_interval: Interval
    loss: float | None
    loss_interval: Interval | None
    beyond: float
    """How many times the budget is above the largest run of the fit or below the smallest; 1 within."""

    @property
    def tokens_per_parameter(self) -> float:
        return self.D / self.N


def allocate(fit: Fit[Any], flops: float) -> Allocation:
    """Raises ValueError for a law of one variable, which allocates nothing, and for a budget that is not positive."""
    if isinstance(fit.law, PowerLaw):
        raise ValueError("a power law of one variable allocates nothing")
    if not 0 < flops < float("inf"):
        raise ValueError(f"a budget is positive and finite, got {flops}")
    N, D = fit.law.optimum(flops)
    predicts = not isinstance(fit.law, Frontier)
    low, high = fit.reach
    return Allocation(
        flops,
        fit.counting,
        float(N),
        float(D),
        fit.interval(lambda law: law.optimum(flops)[0]),
        fit.interval(lambda law: law.optimum(flops)[1]),
        float(fit.law.loss(N, D)) if predicts else None,
        fit.interval(lambda law: law.loss(*law.optimum(flops))) if predicts else None,
        max(flops / high, low / flops, 1.0),
    )


@dataclass(frozen=True)
class Judgement:
    """A model beside the best one of the same compute.

    `factor` is how many times more tokens a smaller model should have had; below 1, it had more than that.
    """

    best: Allocation
    factor: float
    interval: Interval
    tokens_wanted: float
    """With which this size would be the best one of its compute."""

    @property
    def verdict(self) -> str:
        if self.interval.low <= 1 <= self.interval.high:
            return "about right"
        return "under-trained" if self.factor > 1 else "over-trained"


def judge(fit: Fit[Any], N: float, D: float) -> Judgement:
    """N is counted as the fit counts it (`fit.counting`)."""
    flops = FLOPS_PER_PARAMETER * N * D

    def factor(law: Any) -> Value:
        return law.optimum(flops)[1] / D

    return Judgement(allocate(fit, flops), float(factor(fit.law)), fit.interval(factor), _tokens_for(fit.law, N))


def _tokens_for(law: Any, N: float) -> float:
    """Tokens with which N is optimal: along the frontier log N is linear in log C."""
    N_1 = float(law.optimum(1.0)[0])
    flops = (N / N_1) ** (1 / float(law.exponent))
    return flops / (FLOPS_PER_PARAMETER * N)


def loss_of_repeated(fit: Fit[Any], N: float, tokens: float, unique: float) -> float:
    """The loss where only `unique` tokens exist and are read again until `tokens` are (Muennighoff et al. 2023)."""
    return float(fit.law.loss(N, effective_tokens(tokens, unique)))
