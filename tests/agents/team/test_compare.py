from __future__ import annotations

import math
from typing import Any

import pytest

from modelworks.agents.model import Reply
from modelworks.agents.planning.budget import Spent
from modelworks.agents.planning.chain import think
from modelworks.agents.team.compare import Case, Comparison, compare
from modelworks.evals.answers import final_number
from modelworks.evals.intervals import wilson
from modelworks.evals.tasks import Example

EXAMPLES = [Example([{"role": "user", "content": f"{at} words here"}], f"#### {at}") for at in range(4)]


class Model:
    """Answers 1 to everything, in 6 tokens after 4 of prompt."""

    name, context_length = "one", 1000

    def __init__(self) -> None:
        self.asked = 0

    def count(self, messages: Any, tools: Any = ()) -> int:
        return 4

    def reply(self, messages: Any, tools: Any = (), *, max_tokens: int = 512, **_: Any) -> Reply:
        self.asked += 1
        return Reply("#### 1", (), 4, min(6, max_tokens), cut=max_tokens < 6)


def test_one_agent_gets_as_many_chains_as_the_teams_tokens_pay_for():
    def team(model: Any, messages: Any) -> Any:
        chains = [think(model, messages, extract=final_number) for _ in range(3)]
        return chains[0].answer if messages[0]["content"][0] in "12" else final_number(messages[0]["content"])

    model = Model()
    cases = list(compare(model, EXAMPLES, team, extract=final_number, max_tokens=6, parallel=1))
    # The team is right about all but the third, one agent about the second alone.
    assert [(case.team_right, case.alone_right) for case in cases] == [
        (True, False),
        (True, True),
        (False, False),
        (True, False),
    ]
    assert all(case.team == case.alone == Spent(3, 12, 18) for case in cases)
    assert model.asked == 4 * (3 + 3)
    found = Comparison(cases)
    assert (found.team.right, found.team.asked, found.team.spent.tokens) == (3, 4, 120)
    assert (found.alone.rate, found.alone.interval) == (0.25, wilson(1, 4))
    gap, (low, high) = found.gain
    assert (gap, low, high) == (0.5, 0.0, 1.0)
    assert "team: 75.0% (3 of 4;" in str(found)
    assert "+50.0 points (95%: +0.0 to +100.0)" in str(found)


def test_one_agent_never_spends_more():
    """The last chain is cut to what is left, and what was cut is no answer."""

    def team(model: Any, messages: Any) -> None:
        model.reply(messages, max_tokens=6)
        model.reply(messages, max_tokens=2)

    (case,) = compare(Model(), EXAMPLES[1:2], team, extract=final_number, max_tokens=6)
    assert case.team == case.alone == Spent(2, 8, 8)
    assert (case.team_right, case.alone_right) == (False, True)


def test_a_team_that_asks_nothing_leaves_one_agent_nothing():
    (case,) = compare(Model(), EXAMPLES[:1], lambda model, messages: 0, extract=final_number)
    assert case == Case(True, False, Spent(), Spent())


def test_what_cannot_be_compared_is_a_mistake():
    with pytest.raises(ValueError, match="no answer is found"):
        list(compare(Model(), [Example(EXAMPLES[0].messages, "none")], lambda *_: None, extract=final_number))
    with pytest.raises(ValueError, match="no cases"):
        Comparison([])
    assert math.isclose(Comparison([Case(True, True, Spent(), Spent())]).gain[0], 0)
