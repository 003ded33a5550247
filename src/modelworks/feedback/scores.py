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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelworks.core.config import read_values, resolve
from modelworks.core.errors import ConfigError

Messages = Sequence[Mapping[str, Any]]


class Answered(NamedTuple):
    """An answer, the messages that it answers, and what else is known of them."""

    prompt: Messages
    answer: str
    extra: Mapping[str, Any]


Reward = Callable[[Sequence[Any]], Sequence[float]]
"""Of `Answered` ones (or what has their members) one number each; a higher one is better."""


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
    failures: Counter[str] = Counter()
    asked = [Answered(prompt, answer, {}) for prompt, answer in zip(prompts, answers)]
    values, raised = _asked(reward, asked), 0
    if isinstance(values, str):
        found = [_asked(reward, [one]) for one in asked]
        failures.update(one for one in found if isinstance(one, str))
        raised = failures.total()
        values = np.array([math.nan if isinstance(one, str) else one[0] for one in found], dtype=np.float64)
    failures["infinite"] = int(np.isinf(values).sum())
    failures["not a number"] = int(np.isnan(values).sum()) - raised
    failures = +failures
    values = np.where(np.isfinite(values), values, math.nan)
    return Scored(values, failures)


def _asked(reward: Reward, asked: Sequence[Answered]) -> NDArray[np.float64] | str:
    """The values, or why there are none: a reward is anybody's code and may raise anything."""
    try:
        values = np.asarray(reward(asked), dtype=np.float64)
    except Exception as error:  # noqa: BLE001 - named and counted by who asked
        return f"raised {type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(": ")
    if values.shape != (len(asked),):
        return f"raised ValueError: {len(asked)} answers, but values of shape {values.shape}"
    return values


def of_text(score: Callable[[str], float]) -> Reward:
    """A reward that looks at the answer alone."""
    return lambda answered: [score(one.answer) for one in answered]


def length(text: str) -> float:
    """The deliberately bad reward: how many words an answer has."""
    return float(len(text.split()))


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
    """`length`, a rule's TOML file, or `package.module:function`, which takes a list of `Answered`.

    Raises ConfigError for what is none of these.
    """
    if ref == "length":
        return of_text(length)
    if ref.endswith(".toml"):
        return of_text(read_rule(ref))
    home, colon, name = ref.partition(":")
    if not colon:
        raise ConfigError(f"{ref!r} is no reward: give length, a rule's .toml file, or package.module:function")
    try:
        found = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{ref}: {error}") from error
    if not callable(found):
        raise ConfigError(f"{ref}: it is {type(found).__name__}, not a function")
    reward: Reward = found
    return reward
