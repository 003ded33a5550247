from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any

import pytest

from modelworks.agents.halt import Halt
from modelworks.agents.model import Halted, ModelError, Reply
from modelworks.agents.planning.budget import Budget, Budgeted, SpentError
from modelworks.agents.planning.chain import Consensus, asked, last_line, majority, self_consistency, think
from modelworks.evals.answers import final_number


def test_the_question_comes_after_the_shots_with_the_instruction(scripted):
    shots = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "#### 2"}]
    model = scripted(Reply("Two and two.\n#### 4"))
    chain = think(model, asked("2+2?", "Think.", shots))
    assert model.asked[0][0] == [*shots, {"role": "user", "content": "2+2?\nThink."}]
    assert (chain.answer, chain.text) == ("4", "Two and two.\n#### 4")


@pytest.mark.parametrize(
    ("text", "answer"),
    [("a\n#### 5 \nmore", "5"), ("#### 1\n#### 2", "2"), ("so\n\nParis\n ", "Paris"), (" \n", None), ("so ####", None)],
)
def test_the_answer_stands_behind_the_mark_or_last(text, answer):
    assert last_line(text) == answer


def test_what_was_cut_is_no_answer(scripted):
    """Half a thought ends on a number, too."""
    assert think(scripted(Reply("He has 3 apples and 7", cut=True)), asked("?"), extract=final_number).answer is None


def test_the_majority_decides_and_the_first_of_equals():
    assert majority([3, None, 5, 5, None, None]) == 5
    assert majority([7, 3, 3, 7]) == 7
    assert majority([None]) is None
    assert Consensus(()).answer is None
    assert Consensus(()).share == 0


def test_self_consistency_counts_equal_answers_whatever_their_words(scripted):
    texts = ("#### 4", "the answer is 4.0", "#### 5", "no number", "#### $4")
    model = scripted(*map(Reply, texts))
    found = self_consistency(model, asked("2+2?"), extract=final_number, parallel=1)
    assert found.answer == Fraction(4)
    assert found.share == 0.6
    assert [chain.text for chain in found.chains] == list(texts)


def test_a_budget_ends_the_samples_and_what_was_paid_for_counts(scripted):
    reply = Reply("#### 4", prompt_tokens=10, completion_tokens=5)
    model = Budgeted(scripted(*[reply] * 9), Budget(calls=3))
    found = self_consistency(model, asked("2+2?"), samples=9, parallel=4)
    assert len(found.chains) == 3
    assert model.budget.spent.tokens == 45


def test_a_failure_is_raised_also_behind_a_spent_budget(scripted):
    model = scripted(SpentError("spent"), ModelError("down"))
    with pytest.raises(ModelError, match="down"):
        self_consistency(Together(model, 2), asked("?"), samples=2, parallel=2)


class Together:
    """Asks a model once so many ask, so that no call is over before another has begun."""

    def __init__(self, model: Any, many: int) -> None:
        self._model, self._barrier = model, threading.Barrier(many, timeout=10)

    def reply(self, messages: Any, **options: Any) -> Reply:
        self._barrier.wait()
        return self._model.reply(messages, **options)


def test_a_halt_is_no_answer(scripted):
    halt = Halt()
    halt.set()
    with pytest.raises(Halted):
        self_consistency(scripted(), asked("?"), halt=halt)


def test_no_samples_is_a_mistake(scripted):
    with pytest.raises(ValueError, match="0 samples"):
        self_consistency(scripted(), asked("?"), samples=0)
