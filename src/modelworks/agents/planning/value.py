"""Values of states for a search, by the log-probabilities of a local model instead of its words.

    value = by_labels(engine, ask, {"sure": 20.0, "likely": 1.0, "impossible": 0.001}, budget=budget)

The paper samples such words several times and adds up what they stand for (Yao et al. 2023, section 4.1); the
expectation under the model is what that sum estimates, without its noise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from modelworks.agents.model import Message
from modelworks.agents.planning.budget import Budget
from modelworks.agents.planning.tree import Evaluate, State
from modelworks.core.errors import ConfigError
from modelworks.engine.engine import Engine
from modelworks.engine.grammar import Grammar
from modelworks.engine.many import answer_all
from modelworks.engine.row import Prompt
from modelworks.engine.sample import Sampling


def choice_logprobs(engine: Engine, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
    """For each prompt, the log-probability of each choice as the whole answer's beginning, in nats.

    Raises ConfigError for a model without a tokenizer or without choices, and what `Engine.submit` raises.
    """
    tokenizer = engine.model.tokenizer
    if tokenizer is None or not choices:
        raise ConfigError("log-probabilities of choices need a tokenizer, and at least one choice")
    by_choice = []
    for choice in choices:  # one after the other: the second finds the prompts in the prefix cache
        longest = len(tokenizer.encode(choice, add_special=False)) + 8
        # A grammar with one answer forces its tokens; each is reported as likely as the model itself finds it.
        sampling = Sampling(grammar=Grammar.regex(re.escape(choice)), max_tokens=longest)
        by_choice.append([sum(one.logprobs) for one in answer_all(engine, ((prompt, sampling) for prompt in prompts))])
    return [list(row) for row in zip(*by_choice, strict=True)]


def by_labels(
    engine: Engine,
    ask: Callable[[State], Sequence[Message]],
    labels: Mapping[str, float],
    *,
    budget: Budget | None = None,
) -> Evaluate[State]:
    """An `evaluate` for `tree.search`: the expectation of what the labels stand for, were one of them the answer.

    Each state is one call of the model, taken from `budget`: its labels share one prompt, which is computed once.
    """

    def evaluate(states: Sequence[State]) -> list[float]:
        if budget is not None:
            budget.take(len(states))
        found = choice_logprobs(engine, [ask(state) for state in states], list(labels))
        return [_expected(row, list(labels.values())) for row in found]

    return evaluate


def _expected(logprobs: Sequence[float], values: Sequence[float]) -> float:
    top = max(logprobs)
    weights = [math.exp(each - top) for each in logprobs]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
