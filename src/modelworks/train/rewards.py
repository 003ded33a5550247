"""Rewards: any callable from answers to numbers. Here are those that can be checked, and how several become one.

A reward that raises, or gives what is no number, is a fact about one sample: it is found out which, counted and
reported, and the sample is left out, or the run ends, by choice.
"""

from __future__ import annotations

import ast
import csv
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from modelworks.core.errors import ConfigError, ModelworksError, TrainingError
from modelworks.data.encode import encode_sample
from modelworks.data.sample import Completion, Turns
from modelworks.evals.answers import final_number
from modelworks.models.load import load
from modelworks.models.reward import RewardModel


class Answered(NamedTuple):
    """An answer, what it answers, and what else its row of the data says (`data.formats`: `extra`).

    Where the row has a completion of its own, that is `extra["completion"]`.
    """

    prompt: Turns
    answer: str
    extra: Mapping[str, Any]


Reward = Callable[[Sequence[Answered]], Sequence[float]]


# --- several as one ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedReward:
    name: str
    reward: Reward
    weight: float = 1.0
    gold: bool = False
    """Measured beside the others, and learned from by none: what the others stand for."""


@dataclass(frozen=True)
class Scored:
    """Of each answer; NaN where a reward failed."""

    totals: tuple[float, ...]
    """The weighted sum of what is learned from."""
    parts: Mapping[str, tuple[float, ...]]
    gold: tuple[float, ...] | None = None
    failures: Counter[str] = field(default_factory=Counter)
    """What went wrong how often."""


def score_answers(rewards: Sequence[NamedReward], answers: Sequence[Answered], *, fatal: bool = False) -> Scored:
    """Ask all rewards; raise TrainingError for one that gives another number of values than it was asked for, and with
    `fatal` for the first that fails.
    """
    failures: Counter[str] = Counter()
    parts = {each.name: _asked(each, answers, failures, fatal) for each in rewards}
    learned = [each for each in rewards if not each.gold]
    totals = tuple(sum(each.weight * parts[each.name][at] for each in learned) for at in range(len(answers)))
    gold = next((parts[each.name] for each in rewards if each.gold), None)
    return Scored(totals, parts, gold, failures)


def _asked(each: NamedReward, answers: Sequence[Answered], failures: Counter[str], fatal: bool) -> tuple[float, ...]:
    def values(asked: Sequence[Answered]) -> list[float]:
        found = [float(value) for value in each.reward(asked)]
        if len(found) != len(asked):
            raise TrainingError(f"reward {each.name} gave {len(found)} numbers for {len(asked)} answers")
        return found

    def failed(what: str, cause: Exception | None = None) -> float:
        if fatal:
            raise TrainingError(f"reward {each.name}: {what}") from cause
        failures[f"{each.name}: {what}"] += 1
        return math.nan

    def alone(answer: Answered) -> float:
        try:
            value = values([answer])[0]
        except ModelworksError:
            raise
        except Exception as error:  # noqa: BLE001 - counted and reported, or raised with its cause
            return failed(f"{type(error).__name__}: {error}"[:200], error)
        return value if math.isfinite(value) else failed("no number")

    try:
        found = values(answers)
    except ModelworksError:
        raise  # of the run, not of an answer
    except Exception:  # noqa: BLE001 - a reward is anybody's code: which answer it fails at is found out one by one
        return tuple(map(alone, answers))
    return tuple(value if math.isfinite(value) else failed("no number") for value in found)


# --- what can be checked ----------------------------------------------------------------------------------------------


def _each(judge: Callable[[Answered], float]) -> Reward:
    return lambda answers: [judge(answer) for answer in answers]


def _reference(answer: Answered, column: str) -> Any:
    if column not in answer.extra:
        there = ", ".join(answer.extra) or "none"
        raise ConfigError(
            f"the data has no column {column} to hold an answer against; beside the prompt it has {there}"
        )
    value = answer.extra[column]
    return (
        value[-1].get("content", "")
        if isinstance(value, tuple | list) and value and isinstance(value[-1], Mapping)
        else value
    )


def number(column: str = "completion") -> Reward:
    """1 where the answer comes to the number of its row's `column`, such as GSM8K's worked solution; else 0."""

    def judge(answer: Answered) -> float:
        expected = final_number(str(_reference(answer, column)))
        if expected is None:
            raise ConfigError(f"column {column} has no number: {_reference(answer, column)!r:.60}")
        return float(final_number(answer.answer) == expected)

    return _each(judge)


def exact(column: str = "completion") -> Reward:
    """1 where the answer is the text of its row's `column`, but for spaces around it; else 0."""
    return _each(lambda answer: float(answer.answer.strip() == str(_reference(answer, column)).strip()))


def regex(pattern: str, *, whole: bool = False) -> Reward:
    """1 where the pattern is found in the answer, or with `whole` is all of it; else 0. Raises ConfigError."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"pattern {pattern!r} is no regular expression: {error}") from error
    search = compiled.fullmatch if whole else compiled.search
    return _each(lambda answer: float(search(answer.answer) is not None))


def length(unit: Literal["characters", "words"] = "words") -> Reward:
    """How long the answer is. Alone it is the plainest reward to be hacked, for audits; with a small negative weight
    beside others it is a price of words.
    """
    if unit not in ("characters", "words"):
        raise ConfigError(f"unit is {unit!r}, expected characters or words")
    return _each(lambda answer: float(len(answer.answer if unit == "characters" else answer.answer.split())))


def tags(names: Sequence[str] = ("think", "answer")) -> Reward:
    """1 where the answer is `<think>...</think><answer>...</answer>` and no more, each once, none empty; else 0."""
    blocks = r"\s*".join(
        rf"<{name}>(?:(?!</?(?:{'|'.join(names)})>).)*\S(?:(?!</?(?:{'|'.join(names)})>).)*</{name}>" for name in names
    )
    return regex(rf"\s*{blocks}\s*", whole=True)


# --- what is learned --------------------------------------------------------------------------------------------------


def reward_model(ref: str, *, batch_tokens: int = 4096) -> Reward:
    """What a reward model says of the prompt with the answer, each through its own tokenizer and chat template.

    Raises ConfigError where it has no tokenizer, and what `load` raises.
    """
    model = load(ref, kind=RewardModel)
    if (tokenizer := model.tokenizer) is None:
        raise ConfigError(f"{ref}: the reward model has no tokenizer")

    def ids(answer: Answered) -> list[int]:
        is_text = isinstance(answer.prompt, str)
        said: Turns = answer.answer if is_text else ({"role": "assistant", "content": answer.answer},)
        found = encode_sample(tokenizer, Completion(prompt=answer.prompt, completion=said)).ids.tolist()
        return found[-model.context_length :] or [tokenizer.eos_id or 0]

    return lambda answers: model.rewards([ids(answer) for answer in answers], batch_tokens=batch_tokens).tolist()


# --- the game of 24 ---------------------------------------------------------------------------------------------------

_OPERATORS: Final[Mapping[type[ast.AST], Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS: Final = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
_EXPRESSION: Final = re.compile(r"[\d(][\d\s()+\-*/]*")
_LONGEST: Final = 200  # characters: deep nesting is a parser's bane, and no such expression is of four numbers


def evaluate(expression: str) -> tuple[Fraction, Counter[int]] | None:
    """What an expression of whole numbers, + - * / and brackets comes to, exactly, and the numbers in it; or None."""
    try:
        tree = ast.parse(expression.translate(_SIGNS).strip()[:_LONGEST], mode="eval")
        used: Counter[int] = Counter()
        return _value(tree.body, used), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise ValueError(f"{type(node).__name__} is no part of such an expression")


def is_solution(answer: str, numbers: Sequence[int], target: int = 24) -> bool:
    """Whether the last expression of an answer, "= 24" behind it or not, uses each number once and makes the target."""
    for line in reversed(answer.translate(_SIGNS).splitlines()):
        left, _, right = line.partition("=")
        expressions = [each for each in _EXPRESSION.findall(left) if any(sign in each for sign in "+-*/")]
        if not expressions:
            continue
        if right.strip() and (stated := evaluate(right)) is not None and stated[0] != target:
            return False
        found = evaluate(expressions[-1])
        return found is not None and found[0] == target and found[1] == Counter(numbers)
    return False


def game_of_24(column: str = "numbers", target: int = 24) -> Reward:
    """1 where the answer makes 24 of the row's numbers ("4 4 6 8", or a list), each used once; else 0."""

    def judge(answer: Answered) -> float:
        stated = _reference(answer, column)
        numbers = [int(each) for each in (stated.split() if isinstance(stated, str) else stated)]
        return float(is_solution(answer.answer, numbers, target))

    return _each(judge)


def read_game_of_24(path: str | Path) -> list[tuple[int, ...]]:
    """The puzzles of a CSV file with a column Puzzles. Raises ConfigError for one that has none."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return [tuple(map(int, row["Puzzles"].split())) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: no puzzles can be read from it: {error!r}") from error


# --- by name ----------------------------------------------------------------------------------------------------------

REWARDS: Final[dict[str, Callable[..., Reward]]] = {
    "number": number,
    "exact": exact,
    "regex": regex,
    "length": length,
    "format": tags,
    "game_of_24": game_of_24,
    "model": reward_model,
}
"""What makes a reward of a recipe's options. To add one, add a line."""


@dataclass(frozen=True, kw_only=True)
class RewardRecipe:
    """A reward of a run; its name in the recipe is that of its metric."""

    kind: str = ""
    "One of `REWARDS`; the reward's own name where not given."
    weight: float = 1.0
    gold: bool = False
    "Measured, and not learned from."
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, name: str) -> NamedReward:
        """Raises ConfigError for a kind that is not there, and options that it does not take."""
        kind = self.kind or name
        if kind not in REWARDS:
            raise ConfigError(f"rewards.{name}.kind: there is no reward {kind!r}; there are {', '.join(REWARDS)}")
        try:
            made = REWARDS[kind](**self.options)
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"rewards.{name}: {error}") from error
        return NamedReward(name, made, self.weight, self.gold)
