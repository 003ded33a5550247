from __future__ import annotations

from modelworks.agents.model import Reply
from modelworks.agents.planning.budget import Budget, Budgeted
from modelworks.agents.planning.propose import by_model
from modelworks.agents.planning.tree import Expanded, search


def ask(state: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"after {state!r}"}]


def read(state: str, text: str) -> list[str]:
    return [state + letter for letter in text if letter.isalpha()]


def test_one_reply_may_list_several_states(scripted):
    model = scripted(Reply("x, y"))
    assert list(by_model(model, ask, read)("a")) == ["ax", "ay"]
    assert model.asked[0][0] == ask("a")


def test_several_samples_are_of_one_question_and_counted(scripted):
    model = Budgeted(scripted(Reply("x"), Reply("?"), Reply("y"), Reply("z")), Budget(calls=4))
    propose = by_model(model, ask, read, samples=3, parallel=1)
    *steps, outcome = search("", propose=propose, goal=lambda _: False, depth=2, budget=model.budget)
    # The second expansion has one call left, and what it proposed is kept.
    assert steps == [Expanded("", 0, proposed=2, fresh=2, calls=3)]
    assert (outcome.why, outcome.states, model.budget.spent.calls) == ("spent", 4, 4)
