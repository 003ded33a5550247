"""How sure a score is: intervals for a rate and for a mean."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


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
