"""Judges: which of two answers is better by a question, as log-probabilities and never as free text.

    judge = ModelJudge(engine)
    for verdict in judge(comparisons):
        verdict.margin      # log-odds that the first answer is better; above 0: it is

Every pair is put in both orders. What a judge has for a place, whatever stands there, adds to its log-odds in one order
and takes from them in the other: the mean of the two is free of it, and half their difference is that bias, which is
reported. (Judges with such a bias: Zheng et al. 2023, arXiv:2306.05685, section 3.3.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from modelworks.core.errors import ConfigError
from modelworks.engine.engine import Engine
from modelworks.engine.grammar import Grammar
from modelworks.engine.many import answer_all
from modelworks.engine.sample import Sampling
from modelworks.feedback.scores import Messages, score_all
from modelworks.text.chat import render
from modelworks.train.rewards import Reward

Labels = tuple[str, str]
Item = TypeVar("Item")
_CHUNK = 16


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, and what they are compared in."""

    prompt: Messages
    question: str
    first: str
    second: str


@dataclass(frozen=True)
class Verdict:
    """What a judge said of a comparison.

    `orders` holds, for the order as given and for the other, the log-probabilities of the first answer and of the
    second; None where there is no verdict, and then `failure` says why.
    """

    orders: tuple[tuple[float, float], tuple[float, float]] | None
    failure: str | None = None

    @property
    def margin(self) -> float:
        """The log-odds for the first answer, averaged over both orders; NaN without a verdict."""
        return math.nan if self.orders is None else sum(first - second for first, second in self.orders) / 2

    @property
    def bias(self) -> float:
        """The log-odds for whatever stands first; NaN without a verdict."""
        if self.orders is None:
            return math.nan
        given, swapped = (first - second for first, second in self.orders)
        return (given - swapped) / 2

    @property
    def flips(self) -> bool:
        """Whether the order decided: each order has another winner."""
        return self.orders is not None and abs(self.bias) > abs(self.margin)


Judge = Callable[[Iterable[Comparison]], Iterator[Verdict]]
"""Verdicts in the order of the comparisons."""


@dataclass(frozen=True)
class Bias:
    """A judge's love of a place."""

    verdicts: int
    flipped: int
    """Verdicts that the order decided."""
    first_place: int
    """Of twice as many choices, those for what stood first; half of them without a bias."""
    mean: float
    """Log-odds for what stands first; NaN without verdicts."""


def position_bias(verdicts: Iterable[Verdict]) -> Bias:
    """Measured over the verdicts that there are."""
    found = [verdict for verdict in verdicts if verdict.orders is not None]
    first = 0
    for verdict in found:
        assert verdict.orders is not None
        (a, b), (c, d) = verdict.orders
        first += (a > b) + (d > c)
    mean = sum(verdict.bias for verdict in found) / len(found) if found else math.nan
    return Bias(len(found), sum(verdict.flips for verdict in found), first, mean)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, so many at a time."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def asked(comparison: Comparison, labels: Labels, *, swapped: bool = False) -> list[dict[str, str]]:
    """The messages by which a model is asked; `swapped` puts the second answer first."""
    answers = (comparison.second, comparison.first) if swapped else (comparison.first, comparison.second)
    said = "\n\n".join(f"{str(turn['role']).capitalize()}: {_said(turn)}" for turn in comparison.prompt)
    parts = [
        "Here is a conversation, and two answers that could follow.",
        f"[Conversation]\n{said}",
        *(f"[Answer {label}]\n{answer.strip()}" for label, answer in zip(labels, answers)),
        f"{comparison.question} Reply with {labels[0]} or {labels[1]} and nothing else.",
    ]
    return [{"role": "user", "content": "\n\n".join(parts)}]


def _said(turn: Mapping[str, Any]) -> str:
    content = turn.get("content", "")
    if isinstance(content, str):
        return content.strip()
    return "\n".join(str(part.get("text", "")) for part in content)


class ModelJudge:
    """A local model, by the log-probabilities of the two labels as its whole answer.

    Where the labels have different numbers of tokens, each has its mean log-probability a token. A comparison that does
    not fit the model's context has no verdict.
    """

    def __init__(self, engine: Engine, labels: Labels = ("A", "B")) -> None:
        tokenizer = engine.model.tokenizer
        if tokenizer is None:
            raise ConfigError("a model without a tokenizer cannot judge")
        self._engine, self._labels = engine, labels
        self._tokens = [len(tokenizer.encode(label, add_special=False)) for label in labels]

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for chunk in chunks(comparisons, _CHUNK):
            prompts = [asked(one, self._labels, swapped=swapped) for one in chunk for swapped in (False, True)]
            lengths = [self._length(prompt) for prompt in prompts]
            longest = self._engine.model.context_length - max(self._tokens) - 1
            fits = [max(lengths[2 * at : 2 * at + 2]) <= longest for at in range(len(chunk))]
            taken = [prompt for at, prompt in enumerate(prompts) if fits[at // 2]]
            # One label after the other: the second finds the prompts in the prefix cache.
            by_label = [self._logprobs(taken, label) for label in range(2)]
            found = iter(zip(*by_label, strict=True))
            for at, fit in enumerate(fits):
                if fit:
                    given, (first_shown, second_shown) = next(found), next(found)
                    yield Verdict((given, (second_shown, first_shown)))
                else:
                    yield Verdict(None, f"{max(lengths[2 * at : 2 * at + 2])} tokens do not fit the judge's context")

    def _length(self, prompt: Messages) -> int:
        assert self._engine.model.tokenizer is not None
        return len(render(self._engine.model.tokenizer, prompt, add_generation_prompt=True).ids)

    def _logprobs(self, prompts: Sequence[Messages], label: int) -> list[float]:
        sampling = Sampling(grammar=Grammar.regex(re.escape(self._labels[label])), max_tokens=self._tokens[label] + 8)
        scale = self._tokens[label] if self._tokens[0] != self._tokens[1] else 1
        # A grammar with one answer forces its tokens; each is reported as likely as the model itself finds it.
        return [sum(one.logprobs) / scale for one in answer_all(self._engine, ((p, sampling) for p in prompts))]


class RuleJudge:
    """Any reward: the difference of the two scores are the log-odds. What is no number gives no verdict."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for chunk in chunks(comparisons, _CHUNK):
            prompts = [one.prompt for one in chunk for _ in range(2)]
            scored = score_all(self._reward, prompts, [text for one in chunk for text in (one.first, one.second)])
            reasons = ", ".join(scored.failures)
            for at in range(len(chunk)):
                first, second = map(float, scored.values[2 * at : 2 * at + 2])
                if math.isfinite(first - second):
                    yield Verdict(((first, second), (first, second)))
                else:
                    yield Verdict(None, f"the rule: {reasons}")
