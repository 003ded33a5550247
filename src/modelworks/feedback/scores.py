"""Rewards as plain callables, asked so that a broken one is seen: what is no number, and what raises, is counted.

    scored = score_all(reward, prompts, answers)
    scored.values, scored.failures

A reward that hides a NaN poisons a mean, a gradient or a ranking without a word; here it becomes a NaN with its reason.
"""

from __future__ import annotations

import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelworks.core.config import read_values, resolve
from modelworks.core.errors import ConfigError
from modelworks.train.rewards import Answered, NamedReward, Reward, length, reward_model, score_answers

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Scored:
    """Numbers in the order of the answers, NaN where the reward gave none, and how often for which reason."""

    values: NDArray[np.float64]
    failures: Counter[str]

    def some(self) -> Scored:
        """Itself; raise ConfigError where there is not one number."""
        if not np.isfinite(self.values).any():
            reasons = ", ".join(self.failures) or "there are none"
            raise ConfigError(f"the reward gave no number for any of {len(self.values)} answers: {reasons}")
        return self


def score_all(reward: Reward, prompts: Sequence[Messages], answers: Sequence[str]) -> Scored:
    """Ask a reward for all answers at once, and one by one where that raises, so that one answer costs no other.

    Raises ValueError for other numbers of prompts and answers.
    """
    if len(prompts) != len(answers):
        raise ValueError(f"{len(prompts)} prompts and {len(answers)} answers")
    asked = [Answered(tuple(prompt), answer, {}) for prompt, answer in zip(prompts, answers)]
    found = score_answers([NamedReward("reward", reward)], asked)
    failures = Counter({what.removeprefix("reward: "): count for what, count in found.failures.items()})
    return Scored(np.array(found.totals, np.float64), failures)


def of_text(score: Callable[[str], float]) -> Reward:
    """A reward that looks at the answer alone."""
    return lambda answered: [score(one.answer) for one in answered]


# --- rules in TOML ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pattern:
    regex: str
    weight: float
    most: int = 1
    "Count it so many times at most."

    def __post_init__(self) -> None:
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ConfigError(f"{self.regex!r} is no regular expression: {error}") from error
        if self.most < 1 or not math.isfinite(self.weight):
            raise ConfigError(f"{self.regex!r}: most must be 1 or more, and the weight finite")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A score from patterns: each counts its weight for every time that the text has it."""

    patterns: tuple[Pattern, ...]
    per_word: float = 0.0
    "For every word."
    empty: float = -10.0
    "The score of a text that says nothing."

    def __call__(self, text: str) -> float:
        if not text.strip():
            return self.empty
        score = self.per_word * len(text.split())
        for pattern in self.patterns:
            found = sum(1 for _, _ in zip(range(pattern.most), re.finditer(pattern.regex, text)))
            score += pattern.weight * found
        return score


def read_rule(path: str | Path) -> Rule:
    """A rule from TOML: `[[patterns]]` with regex, weight and most; raise ConfigError that names what is wrong."""
    try:
        return resolve(Rule, read_values(Path(path)))
    except ConfigError as error:
        raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def read_reward(ref: str) -> Reward:
    """`length`, a reward model's folder, a rule's TOML file, or `package.module:function`, given a list of `Answered`.

    Raises ConfigError for what is none of these, and what `load` raises.
    """
    if ref == "length":
        return length()
    if Path(ref).is_dir():
        return reward_model(ref)
    if ref.endswith(".toml"):
        return of_text(read_rule(ref))
    home, colon, name = ref.partition(":")
    if not colon:
        raise ConfigError(
            f"{ref!r} is no reward: give length, a reward model's folder, a rule's .toml, or package.module:function"
        )
    try:
        found = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{ref}: {error}") from error
    if not callable(found):
        raise ConfigError(f"{ref}: it is {type(found).__name__}, not a function")
    reward: Reward = found
    return reward
