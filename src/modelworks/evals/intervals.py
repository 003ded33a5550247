"""How sure a score is: intervals for a rate and for a mean, and whether one sample is higher than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval for a rate (Wilson 1927, "Probable inference", JASA 22), right also near 0 and 1.

    Without any trial it is all of 0 to 1. Raises ValueError for counts that cannot be.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is no rate")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrink = successes / trials, 1 + z * z / trials
    middle = (rate + z * z / (2 * trials)) / shrink
    half = z * (rate * (1 - rate) / trials + z * z / (4 * trials * trials)) ** 0.5 / shrink
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    values: Sequence[float], confidence: float = 0.95, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval for a mean (Efron 1979), as for scores that are not rates, or differences of pairs.

    Raises ValueError without values.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.size == 0:
        raise ValueError("there are no values to resample")
    draw = np.random.default_rng(seed)
    means = np.array([found[draw.integers(0, found.size, found.size)].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def rank_test(lower: Sequence[float], higher: Sequence[float]) -> float:
    """The probability that chance alone puts `higher` so far above `lower`: the exact rank-sum test, one-sided.

    Wilcoxon 1945, Mann and Whitney 1947; ties have the mean of their ranks, and the distribution is over all ways to
    deal these ranks out, so it is exact with ties, too. It takes about (n + m)^3 steps, and is remembered where no
    values are tied. Raises ValueError for an empty sample and for values that are not finite.
    """
    values = np.asarray([*lower, *higher], dtype=np.float64)
    if not len(lower) or not len(higher) or not np.isfinite(values).all():
        raise ValueError("a rank test compares two samples of finite numbers, neither empty")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    doubled = (2 * ends - counts + 1)[inverse]  # twice the mean rank, a whole number
    sums = _rank_sums(tuple(sorted(doubled.tolist())), len(higher))
    return float(sums[int(doubled[len(lower) :].sum()) :].sum() / sums.sum())


@lru_cache(maxsize=8)
def _rank_sums(ranks: tuple[int, ...], size: int) -> NDArray[np.float64]:
    """How many subsets of `size` ranks have each sum."""
    ways = np.zeros((size + 1, sum(ranks) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    return ways[size]


def student_tail(t: float, freedom: int) -> float:
    """The part of Student's distribution with whole degrees of freedom that lies above t.

    Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4. Raises ValueError for less than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"there are {freedom} degrees of freedom, expected at least 1")
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 1.0)
    if odd:
        for power in range(1, freedom - 1, 2):
            total += term
            term *= cosine**2 * (power + 1) / (power + 2)
        inside = 2 / math.pi * (angle + sine * total)
    else:
        for power in range(1, freedom - 1, 2):
            term *= cosine**2 * power / (power + 1)
            total += term
        inside = sine * total
    return (1 - inside) / 2
