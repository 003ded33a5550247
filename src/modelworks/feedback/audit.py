"""What pairs and a reward are worth: how much of them is length, and whether probabilities are met.

- `length_bias`: how far the longer answer wins, among people's pairs and by a reward.
- `calibration`: whether a reward model that says 80% is right 80% of the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelworks.core.errors import ConfigError, DataError
from modelworks.data.sample import Pair, Turns
from modelworks.data.tokenize import Options, find_files, read_samples
from modelworks.evals.intervals import wilson
from modelworks.feedback.monitor import correlation
from modelworks.feedback.scores import Messages, score_all
from modelworks.train.rewards import Reward

Array = NDArray[np.float64]


# --- pairs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """A pair in words: the prompt as messages, the better answer and the worse one."""

    prompt: Messages
    chosen: str
    rejected: str


def read_pairs(paths: Sequence[str | Path]) -> tuple[list[Sides], Counter[str]]:
    """The pairs of files of training data, and why others are left out: both sides the same, or empty.

    Raises DataError for a row that is no pair, and ConfigError where none is left.
    """
    pairs: list[Sides] = []
    left_out: Counter[str] = Counter()
    for sample in read_samples(find_files(paths), Options(as_chat=True), []):
        if not isinstance(sample, Pair):
            raise DataError(f"{sample.place}: it is no pair: chosen and rejected are what makes one")
        assert not isinstance(sample.prompt, str)
        chosen, rejected = _said(sample.chosen), _said(sample.rejected)
        if not chosen or not rejected:
            left_out["an empty answer"] += 1
        elif chosen == rejected:
            left_out["both answers are the same"] += 1
        else:
            pairs.append(Sides(sample.prompt, chosen, rejected))
    if not pairs:
        raise ConfigError(f"there are no pairs to look at ({sum(left_out.values())} were left out)")
    return pairs, left_out


def _said(turns: Turns) -> str:
    if isinstance(turns, str):
        return turns.strip()
    return "\n\n".join(str(turn.get("content", "")) for turn in turns).strip()


def words(text: str) -> int:
    return len(text.split())


@dataclass(frozen=True, kw_only=True)
class LengthBias:
    """How far length decides. Lengths are in words; pairs of equal length are `even` and count for neither side."""

    pairs: int
    even: int
    longer_wins: int
    """Pairs whose better answer is the longer one: what always choosing the longer one gets right."""
    interval: tuple[float, float]
    """Of the part that the longer one wins; Wilson's, 95%."""
    length_chosen: float
    length_rejected: float


@dataclass(frozen=True, kw_only=True)
class RewardBias:
    """What a reward makes of pairs, and how much of that is their length."""

    judged: int
    """Pairs of which both sides have a score."""
    failures: Mapping[str, int]
    right: int
    """Pairs whose better answer has the higher score; ties count half."""
    prefers_longer: int
    """Of the pairs of uneven length, those whose longer side it scores higher."""
    uneven: int
    right_where_longer: tuple[int, int]
    """Right, and all, where the better answer is the longer one..."""
    right_where_shorter: tuple[int, int]
    """...and where it is the shorter: a reward that counts words is never right there."""
    correlation: float
    """Of scores and lengths over all answers."""
    partial: float
    """The same given the prompt: of the differences within pairs."""
    given_label: float
    """Of the differences, given which side is better: what length adds to the score beyond being preferred."""


def length_bias(pairs: Sequence[Sides]) -> LengthBias:
    """Of the labels themselves."""
    chosen = np.array([words(pair.chosen) for pair in pairs])
    rejected = np.array([words(pair.rejected) for pair in pairs])
    longer, even = int((chosen > rejected).sum()), int((chosen == rejected).sum())
    return LengthBias(
        pairs=len(pairs),
        even=even,
        longer_wins=longer,
        interval=wilson(longer, len(pairs) - even),
        length_chosen=float(chosen.mean()),
        length_rejected=float(rejected.mean()),
    )


def score_pairs(reward: Reward, pairs: Sequence[Sides]) -> tuple[Array, Array, Counter[str]]:
    """Scores of the better answers and of the worse ones, NaN where there is none, and why.

    Raises ConfigError where not one answer has a score.
    """
    prompts = [pair.prompt for pair in pairs]
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    found = score_all(reward, [*prompts, *prompts], answers).some()
    return found.values[: len(pairs)], found.values[len(pairs) :], found.failures


def reward_bias(pairs: Sequence[Sides], chosen: Array, rejected: Array, failures: Mapping[str, int]) -> RewardBias:
    """Of the scores that `score_pairs` gave."""
    sound = np.isfinite(chosen) & np.isfinite(rejected)
    lengths = np.array([(words(pair.chosen), words(pair.rejected)) for pair in pairs], np.float64)[sound]
    gaps = chosen[sound] - rejected[sound]
    longer = lengths[:, 0] - lengths[:, 1]
    right = gaps > 0
    both = np.concatenate((chosen[sound], rejected[sound]))
    # Differences in either direction: each pair once as it is and once turned round, so that both means are 0.
    turned = np.concatenate((gaps, -gaps)), np.concatenate((longer, -longer))
    return RewardBias(
        judged=int(sound.sum()),
        failures=dict(failures),
        right=round(float(right.sum() + (gaps == 0).sum() / 2)),
        prefers_longer=int((gaps * longer > 0).sum()),
        uneven=int((longer != 0).sum()),
        right_where_longer=(int(right[longer > 0].sum()), int((longer > 0).sum())),
        right_where_shorter=(int(right[longer < 0].sum()), int((longer < 0).sum())),
        correlation=correlation(both, lengths.T.ravel()) if len(both) else 0.0,
        partial=correlation(*turned) if len(gaps) else 0.0,
        given_label=correlation(gaps, longer) if len(gaps) else 0.0,
    )


# --- calibration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Pairs of about one confidence."""

    pairs: int
    confidence: float
    right: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """How well the probabilities of a reward model, sigmoid(r_w - r_l), are met."""

    pairs: int
    accuracy: float
    ece: float
    """Expected calibration error: |confidence - accuracy| of a bin, averaged over pairs (Guo et al. 2017)."""
    brier: float
    """The mean squared distance of the probability from what was preferred; .25 for a model that knows nothing."""
    nll: float
    bins: tuple[Bin, ...]


def calibration(chosen: ArrayLike, rejected: ArrayLike, *, bins: int = 10) -> Calibration:
    """By the Bradley-Terry model's probability that the chosen answer is the better one.

    A pair's confidence is that of its likelier side, so bins reach from .5 to 1. Pairs without both scores are left
    out. Raises ConfigError where none has them.
    """
    gaps = np.asarray(chosen, np.float64) - np.asarray(rejected, np.float64)
    gaps = gaps[np.isfinite(gaps)]
    if not len(gaps):
        raise ConfigError("no pair has a score on both sides, so there is nothing to calibrate")
    p = 0.5 * (1 + np.tanh(gaps / 2))  # sigmoid, without overflow
    confidence = np.maximum(p, 1 - p)
    right = np.where(gaps == 0, 0.5, gaps > 0)
    places = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table = []
    for place in np.unique(places):
        here = places == place
        count = int(here.sum())
        interval = wilson(round(float(right[here].sum())), count)
        table.append(Bin(count, float(confidence[here].mean()), float(right[here].mean()), interval))
    return Calibration(
        pairs=len(gaps),
        accuracy=float(right.mean()),
        ece=sum(one.pairs * abs(one.confidence - one.right) for one in table) / len(gaps),
        brier=float(((1 - p) ** 2).mean()),
        nll=float(np.logaddexp(0, -gaps).mean()),
        bins=tuple(table),
    )
