"""How often a model beats its base, as it is and at equal length: who likes long answers likes any long model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelworks.core.errors import ConfigError, DataError
from modelworks.data.files import read_rows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WinRate:
    """How often a model beats its base, as it is and at equal length, each with its 95% interval."""

    comparisons: int
    rate: float
    interval: tuple[float, float]
    controlled: float
    controlled_interval: tuple[float, float]
    slope: float
    """Log-odds of a win for one typical difference in length; 0 where length does not matter."""
    length: float
    base_length: float


def win_rate(wins: ArrayLike, lengths: ArrayLike, base_lengths: ArrayLike, *, seed: int = 0) -> WinRate:
    """Wins are 1, 0, or between for a tie or a judge's probability; lengths are of both answers to each prompt.

    Length-controlled as in Dubois et al. 2024 (arXiv:2404.04475, eq. 2), without its term for the difficulty of each
    prompt, which needs many models: a logistic regression of wins on a constant and on tanh(difference of lengths /
    its standard deviation), and the probability of a win where the difference is 0. Both coefficients have a weak prior
    (a pseudo-pair at equal length, half won; a normal of deviation 3 on the slope), so that a model that always wins
    has a finite one. Intervals are by a bootstrap of 1,000 resamples. Raises ConfigError without comparisons, and
    ValueError for what are no wins or no lengths.
    """
    y, own, base = (np.asarray(values, np.float64) for values in (wins, lengths, base_lengths))
    if not len(y):
        raise ConfigError("there are no comparisons")
    if y.shape != own.shape or y.shape != base.shape or not ((y >= 0) & (y <= 1)).all():
        raise ValueError("wins are numbers from 0 to 1, with a length and a base length for each")
    if not (np.isfinite(own).all() and np.isfinite(base).all()):
        raise ValueError("lengths are finite numbers")
    gaps = own - base
    scale = float(gaps.std())
    x = np.tanh(gaps / scale) if scale else np.zeros_like(gaps)
    draw = np.random.default_rng(seed).integers(0, len(y), (1000, len(y)))
    constant, slope = _logistic(x[None], y[None])
    drawn, _ = _logistic(x[draw], y[draw])
    low, high = np.quantile(_sigmoid(drawn), (0.025, 0.975))
    raw_low, raw_high = np.quantile(y[draw].mean(1), (0.025, 0.975))
    return WinRate(
        comparisons=len(y),
        rate=float(y.mean()),
        interval=(float(raw_low), float(raw_high)),
        controlled=float(_sigmoid(constant[0])),
        controlled_interval=(float(low), float(high)),
        slope=float(slope[0]),
        length=float(own.mean()),
        base_length=float(base.mean()),
    )


def _logistic(x_BN: Array, y_BN: Array) -> tuple[Array, Array]:
    """Constant and slope of B regressions at once, by Newton's method."""
    a_B, b_B = np.zeros(len(x_BN)), np.zeros(len(x_BN))
    for _ in range(30):
        p_BN = _sigmoid(a_B[:, None] + b_B[:, None] * x_BN)
        p_B = _sigmoid(a_B)
        gradient_a = (y_BN - p_BN).sum(1) + 0.5 - p_B
        gradient_b = ((y_BN - p_BN) * x_BN).sum(1) - b_B / 9
        v_BN = p_BN * (1 - p_BN)
        aa, ab, bb = v_BN.sum(1) + p_B * (1 - p_B), (v_BN * x_BN).sum(1), (v_BN * x_BN**2).sum(1) + 1 / 9
        determinant = aa * bb - ab**2
        step_a = (bb * gradient_a - ab * gradient_b) / determinant
        step_b = (aa * gradient_b - ab * gradient_a) / determinant
        longest = np.maximum(1, np.maximum(abs(step_a), abs(step_b)) / 4)
        a_B, b_B = a_B + step_a / longest, b_B + step_b / longest
        if max(abs(step_a).max(), abs(step_b).max()) < 1e-9:
            break
    return a_B, b_B


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))


def read_wins(path: str | Path) -> tuple[list[float], list[int], list[int]]:
    """Rows of `win`, and of `answer` and `base` (texts) or `length` and `base_length`; raise DataError for others."""
    wins: list[float] = []
    lengths: list[int] = []
    base_lengths: list[int] = []
    for row in read_rows(path):
        value = row.value
        try:
            win = float(value["win"])
            own = _words(value["answer"]) if "answer" in value else int(value["length"])
            base = _words(value["base"]) if "base" in value else int(value["base_length"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{row.place}: expected win, and answer and base or their lengths: {error!r}") from error
        if not 0 <= win <= 1:
            raise DataError(f"{row.place}: win is {win}, expected 0 to 1")
        wins.append(win)
        lengths.append(own)
        base_lengths.append(base)
    return wins, lengths, base_lengths


def _words(text: str) -> int:
    return len(text.split())
