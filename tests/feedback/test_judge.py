"""Judges: their log-probabilities are the model's own, both orders are asked, and a bias for a place cancels."""

from __future__ import annotations

import math

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.engine.engine import Engine
from modelworks.feedback.judge import Comparison, ModelJudge, RuleJudge, Verdict, asked, position_bias
from modelworks.feedback.scores import of_text
from modelworks.text.chat import render
from modelworks.train.rewards import length

PROMPT = [
    {"role": "user", "content": "What is tea?"},
    {"role": "assistant", "content": "A drink."},
    {"role": "user", "content": "And coffee?"},
]
ONE = Comparison(PROMPT, "Which is shorter?", "Also one.", "A drink that is made of roasted beans.")


def of_model(model, messages, label):
    """The log-probability of a label as the answer, by one plain forward pass."""
    ids = render(model.tokenizer, messages, add_generation_prompt=True).ids
    answer = model.tokenizer.encode(label, add_special=False)
    with torch.no_grad():
        logprobs = model(torch.tensor([[*ids, *answer]]))[0].float().log_softmax(-1)
    return sum(float(logprobs[len(ids) - 1 + at, token]) for at, token in enumerate(answer)), len(answer)


def test_a_model_is_asked_in_both_orders_by_its_own_logprobs(tiny, engine):
    (verdict,) = ModelJudge(engine)([ONE])
    for swapped, (first, second) in zip((False, True), verdict.orders):
        labels = "BA" if swapped else "AB"
        messages = asked(ONE, ("A", "B"), swapped=swapped)
        assert first == pytest.approx(of_model(tiny, messages, labels[0])[0], abs=1e-4)
        assert second == pytest.approx(of_model(tiny, messages, labels[1])[0], abs=1e-4)


def test_labels_of_different_lengths_are_compared_by_the_token(tiny, engine):
    """Else the label with fewer tokens would win by that alone."""
    labels = ("one", "second")
    (verdict,) = ModelJudge(engine, labels)([ONE])
    total, count = of_model(tiny, asked(ONE, labels), "second")
    assert count == 6
    assert verdict.orders[0][1] == pytest.approx(total / count, abs=1e-4)
    (even,) = ModelJudge(engine, ("one", "two"))([ONE])
    assert even.orders[0][1] == pytest.approx(of_model(tiny, asked(ONE, ("one", "two")), "two")[0], abs=1e-4)


def test_swapping_the_answers_turns_the_verdict_round(engine):
    other = Comparison(PROMPT, ONE.question, ONE.second, ONE.first)
    one, two = ModelJudge(engine)([ONE, other])
    assert one.margin == pytest.approx(-two.margin, abs=1e-4)
    assert one.bias == pytest.approx(two.bias, abs=1e-4)


def test_what_does_not_fit_has_no_verdict_and_costs_no_other(engine):
    long = Comparison(PROMPT, ONE.question, "word " * 500, "x")
    first, second, third = ModelJudge(engine)([ONE, long, ONE])
    assert first == third
    assert second.orders is None
    assert "do not fit the judge's context" in second.failure
    assert math.isnan(second.margin)


def test_many_comparisons_come_in_order(engine):
    alone = [next(ModelJudge(engine)([Comparison(PROMPT, "?", str(at), "x")])).margin for at in range(20)]
    together = [v.margin for v in ModelJudge(engine)(Comparison(PROMPT, "?", str(at), "x") for at in range(20))]
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_model_without_a_tokenizer_cannot_judge(tiny):
    tokenizer, tiny.tokenizer = tiny.tokenizer, None
    try:
        with Engine(tiny, kv_bytes=1 << 20) as bare, pytest.raises(ConfigError, match="tokenizer"):
            ModelJudge(bare)
    finally:
        tiny.tokenizer = tokenizer


def test_a_bias_for_a_place_adds_to_one_order_and_leaves_the_mean():
    """True log-odds .5 for the first answer, 2 for whatever stands first."""
    verdict = Verdict(((-1.0, -3.5), (-2.75, -1.25)))
    assert verdict.margin == pytest.approx(0.5)
    assert verdict.bias == pytest.approx(2.0)
    assert verdict.flips
    sure = Verdict(((-1.0, -4.0), (-1.0, -4.0)))
    found = position_bias([verdict, sure, Verdict(None, "no")])
    assert (found.verdicts, found.flipped, found.first_place) == (2, 1, 3)
    assert found.mean == pytest.approx(1.0)
    assert math.isnan(position_bias([]).mean)


def test_any_reward_judges_and_its_nan_is_no_verdict():
    verdicts = list(RuleJudge(length())([ONE, Comparison(PROMPT, "?", "a b", "a")]))
    assert [verdict.margin for verdict in verdicts] == [2 - 8, 1]
    assert all(verdict.bias == 0 for verdict in verdicts)
    broken = RuleJudge(of_text(lambda text: math.nan if text == "a" else 1.0))
    first, second = broken([Comparison(PROMPT, "?", "b", "a"), Comparison(PROMPT, "?", "b", "c")])
    assert first.failure == "the rule: no number"
    assert second.margin == 0
