from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from modelworks.agents.halt import Halt
from modelworks.agents.model import Reply
from modelworks.agents.planning.budget import Budget, Budgeted
from modelworks.agents.planning.reflect import Attempt, LastingLessons, Verdict, best, reflect, with_lessons


class Tries:
    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = iter(texts), []

    def __call__(self, task: str) -> str:
        self.asked.append(task)
        return next(self.texts)


def even(text: str) -> Verdict:
    return Verdict(int(text) % 2 == 0, f"{text} is odd", score=int(text))


def test_a_lesson_is_kept_and_seen_at_the_next_try(scripted):
    tries, lessons = Tries("3", "5", "4"), ["Know the sign."]
    model = scripted(Reply(" Do not\nsay 3. "), Reply("Say an even number."))
    found = list(reflect("An even number?", tries, even, model, lessons=lessons))
    assert [each.text for each in found] == ["3", "5", "4"]
    assert [each.lesson for each in found] == ["Do not say 3.", "Say an even number.", None]
    assert lessons == ["Know the sign.", "Do not say 3.", "Say an even number."]
    assert tries.asked[0].endswith("- Know the sign.")
    assert tries.asked[2] == with_lessons("An even number?", lessons)
    for words in ("An even number?", "Your try: 3", "3 is odd"):
        assert words in model.asked[0][0][-1]["content"]


def test_a_first_try_that_passes_asks_for_no_lesson(scripted):
    model = scripted()
    assert list(reflect("?", Tries("2"), even, model)) == [Attempt("2", even("2"))]
    assert model.asked == []


def test_no_lesson_is_drawn_from_the_last_try(scripted):
    model = scripted(Reply("a"))
    found = list(reflect("?", Tries("1", "7"), even, model, tries=2))
    assert [each.lesson for each in found] == ["a", None]
    assert best(found) == found[1]


def test_the_best_is_what_passed_or_else_the_highest_score():
    low, high, passed = (Attempt("", Verdict(ok, score=score)) for ok, score in ((False, 1), (False, 9), (True, 0)))
    assert best([low, high]) == high
    assert best([low, high, passed]) == passed
    assert best([]) is None


class Remembers:
    """Facts by the words that they share with a query."""

    def __init__(self) -> None:
        self.texts = ["The sea is blue."]

    def add(self, texts: Sequence[str]) -> None:
        self.texts += texts

    def search(self, query: str, limit: int) -> list[SimpleNamespace]:
        def shared(text: str) -> int:
            return -len(set(query.lower().split()) & set(text.lower().split()))

        return [SimpleNamespace(text=text) for text in sorted(self.texts, key=shared)[:limit]]


def test_lessons_in_a_memory_are_found_by_the_next_task_like_it(scripted):
    facts = Remembers()
    task = "Write an even number"
    list(reflect(task, Tries("3", "4"), even, scripted(Reply("Do not say 3.")), lessons=LastingLessons(facts, task)))
    LastingLessons(facts, "Name the sea").append("It is blue.")
    tries = Tries("2")
    list(reflect("An even number, please", tries, even, scripted(), lessons=LastingLessons(facts, "An even number")))
    _, *lessons = tries.asked[0].split("\n- ")
    assert lessons == ["Name the sea: It is blue.", "Write an even number: Do not say 3."]


def test_only_the_newest_lessons_are_shown():
    assert with_lessons("T", ["a", "b", "c"], shown=2) == "T\n\nLessons from earlier tries:\n- b\n- c"
    assert with_lessons("T", ["a"], shown=0) == with_lessons("T", []) == "T"


def test_a_spent_budget_and_a_halt_end_it_with_what_was_tried(scripted):
    model = Budgeted(scripted(Reply("a")), Budget(calls=0))
    assert [each.text for each in reflect("?", Tries("1", "3"), even, model)] == ["1"]
    halt = Halt()
    halt.set()
    assert list(reflect("?", Tries("1"), even, scripted(), halt=halt)) == []
    with pytest.raises(ValueError, match="0 tries"):
        list(reflect("?", Tries(), even, scripted(), tries=0))
