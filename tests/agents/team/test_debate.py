from __future__ import annotations

import pytest

from modelworks.agents.model import ModelError, Reply
from modelworks.agents.planning.budget import Budget, Spent
from modelworks.agents.planning.chain import asked
from modelworks.agents.team.debate import Decided, Said, debate
from modelworks.evals.answers import final_number
from modelworks.text.tool_calls import ToolCall

ASK = asked("2+2?", "Think.")


def said(text: str, prompt: int = 10, written: int = 5) -> Reply:
    return Reply(text, (), prompt, written)


def test_each_reads_what_the_others_said_and_the_majority_decides(scripted):
    one = scripted(said("#### 4"), said("#### 4"))
    two = scripted(said("#### 5"), said("#### 4"))
    three = scripted(said("#### 6"), said("#### 6"))
    *talk, decided = debate([one, two, three], ASK, extract=final_number)
    assert [(each.debater, each.round, each.chain.answer) for each in talk if isinstance(each, Said)] == [
        (0, 0, 4),
        (1, 0, 5),
        (2, 0, 6),
        (0, 1, 4),
        (1, 1, 4),
        (2, 1, 6),
    ]
    assert decided == Decided(4, Spent(6, 60, 30), complete=True)
    first, second = (messages for messages, _ in two.asked)
    assert first == ASK
    assert second[:2] == [*ASK, {"role": "assistant", "content": "#### 5"}]
    for words, is_there in (("#### 4", True), ("#### 6", True), ("#### 5", False), ("2+2?", True)):
        assert (words in second[2]["content"]) == is_there


def test_who_comes_to_no_answer_stands_by_the_one_before(scripted):
    """A small model that reads the others' answers often only repeats their beginning, or is cut."""
    one = scripted(said("#### 4"), said("well"))
    two = scripted(said("#### 4"), Reply("#### 7 or rather", (), 10, 5, cut=True))
    three = scripted(said("#### 6"), said("#### 6"))
    *_, decided = debate([one, two, three], ASK, extract=final_number)
    assert decided.answer == 4


def test_a_judge_chooses_among_the_answers(scripted):
    judge = scripted(Reply("", (ToolCall("choose", '{"number": "2"}'),), 7, 1))
    models = [scripted(said("#### 4")), scripted(said("#### 4")), scripted(said("it is 5"))]
    *_, decided = debate(models, ASK, rounds=1, judge=judge, extract=final_number)
    assert (decided.answer, decided.spent) == (5, Spent(4, 37, 16))
    shown = judge.asked[0][0][-1]["content"]
    assert shown.count("Answer 1:") == shown.count("Answer 2:") == 1
    assert "Answer 3:" not in shown


@pytest.mark.parametrize(("texts", "answer"), [(("4", "4"), 4), (("none", "none"), None)])
def test_a_judge_is_not_asked_where_there_is_nothing_to_choose(scripted, texts, answer):
    *_, decided = debate(
        [scripted(said(text)) for text in texts], ASK, rounds=1, judge=scripted(), extract=final_number
    )
    assert decided.answer == answer


def test_a_budget_that_ends_it_leaves_the_last_whole_round_to_decide(scripted):
    models = [scripted(*[said(text)] * 3) for text in ("#### 4", "#### 4", "#### 5")]
    *talk, decided = debate(models, ASK, rounds=3, extract=final_number, budget=Budget(calls=5))
    assert len(talk) == 5
    assert decided == Decided(4, Spent(5, 50, 25), complete=False)


def test_a_model_that_fails_is_no_silent_debater(scripted):
    with pytest.raises(ModelError, match="down"):
        list(debate([scripted(said("4")), scripted(ModelError("down"))], ASK))
    with pytest.raises(ValueError, match="1 debaters"):
        list(debate([scripted()], ASK))
