"""Values by log-probabilities: the model's own, as one plain forward pass has them."""

from __future__ import annotations

import math

import pytest
import torch

from modelworks.agents.planning.budget import Budget, SpentError
from modelworks.agents.planning.value import by_labels, choice_logprobs
from modelworks.core.errors import ConfigError
from modelworks.models.llama import Llama
from modelworks.text.chat import render

LABELS = {"sure": 20.0, "no": 0.001}


def ask(state: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Can {state} be reached?"}]


def of_model(model: Llama, state: int, choice: str) -> float:
    assert model.tokenizer is not None
    ids = render(model.tokenizer, ask(state), add_generation_prompt=True).ids
    answer = model.tokenizer.encode(choice, add_special=False)
    with torch.no_grad():
        logprobs = model(torch.tensor([[*ids, *answer]]))[0].float().log_softmax(-1)
    return sum(float(logprobs[len(ids) - 1 + at, token]) for at, token in enumerate(answer))


def test_choices_are_as_likely_as_the_model_finds_them(tiny, engine):
    found = choice_logprobs(engine, [ask(1), ask(2)], list(LABELS))
    assert found == [[pytest.approx(of_model(tiny, state, choice), abs=1e-3) for choice in LABELS] for state in (1, 2)]


def test_a_value_is_the_expectation_over_the_labels(tiny, engine):
    budget = Budget(calls=2)
    evaluate = by_labels(engine, ask, LABELS, budget=budget)
    sure, no = (math.exp(of_model(tiny, 7, label)) for label in LABELS)
    assert evaluate([7]) == [pytest.approx((20 * sure + 0.001 * no) / (sure + no), rel=1e-2)]
    assert budget.spent.calls == 1
    with pytest.raises(SpentError):
        evaluate([1, 2])


def test_there_must_be_choices(engine):
    with pytest.raises(ConfigError, match="at least one choice"):
        choice_logprobs(engine, [ask(1)], [])
