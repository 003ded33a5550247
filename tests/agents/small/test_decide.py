"""One choice between tools, `no_tool` and `ask_user`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.small.decide import Decision, decide

NAMES = st.sampled_from(["a", "b", "c", "d"])
POINTS = st.dictionaries(NAMES, st.floats(-10, 10), min_size=1)


def test_the_best_name_and_its_margin() -> None:
    assert decide({"a": 2.0, "b": 0.5}, (), {}, 0.2) == Decision("a", 1.5)
    assert decide({"a": -1.0, "b": -3.0}, (), {}, 0.2) == Decision("no_tool", 1.0)
    assert decide({"a": -1.0}, (), {}, 0.2, required=True) == Decision("a", None)


def test_the_model_s_opinion_turns_a_close_choice() -> None:
    points, nats = {"a": 1.0, "b": 0.8}, {"a": -2.0, "b": 1.0, "no_tool": 0.0, "ask_user": 0.0}
    assert decide(points, (), nats, 0.0).name == "a"
    assert decide(points, (), nats, 0.5) == Decision("b", pytest.approx(1.3))
    assert decide({"a": 1.0}, (), nats | {"no_tool": 4.0}, 0.5) == Decision("no_tool", pytest.approx(2.0))


def test_a_call_that_lacks_a_value_is_a_question() -> None:
    assert decide({"a": 2.0, "b": -1.0}, {"a"}, {}, 0.2) == Decision("ask_user", 2.0)
    assert decide({"a": 2.0, "b": 3.0}, {"a"}, {}, 0.2) == Decision("b", 1.0)
    nats = {"a": 1.0, "ask_user": 3.0, "no_tool": 0.0}
    assert decide({"a": 0.0}, {"a"}, nats, 1.0) == Decision("ask_user", 3.0)  # whichever it would rather write
    with pytest.raises(ValueError, match="no tool"):
        decide({}, (), {}, 1.0)


@given(POINTS, st.sets(NAMES), st.dictionaries(NAMES, st.floats(-30, 0)), st.booleans())
def test_what_is_chosen_is_among_what_there_is(
    points: dict[str, float], lacking: set[str], nats: dict[str, float], required: bool
) -> None:
    found = decide(points, lacking, nats, 0.2, required=required)
    assert found.name in (points.keys() - lacking) | {"no_tool", "ask_user"}
    assert found.margin is None or found.margin >= 0
    assert not (required and found.name == "no_tool")
    assert found.name != "ask_user" or lacking & points.keys()
