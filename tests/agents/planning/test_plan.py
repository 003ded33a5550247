from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.model import ModelError, Reply
from modelworks.agents.planning.plan import Plan, PlanError, PlanStep, read_plan, write_plan
from modelworks.engine.constrain import constrain
from modelworks.engine.grammar import Grammar
from modelworks.text.tool_calls import ToolCall


def plan(**needs: str) -> Plan:
    return Plan(tuple(PlanStep(id, f"do {id}", tuple(of.split())) for id, of in needs.items()))


def test_a_circle_is_refused_by_name():
    with pytest.raises(PlanError, match="in a circle: ") as told:
        plan(a="c", b="a", c="b", d="a")
    assert any(circle in str(told.value) for circle in ("a needs c needs b needs a", "c needs b needs a needs c"))
    with pytest.raises(PlanError, match="a needs a"):
        plan(a="a")


def test_what_cannot_be_carried_out_is_refused_by_name():
    with pytest.raises(PlanError, match="step 'b' needs 'x', which is no step"):
        plan(a="", b="a x")
    with pytest.raises(PlanError, match="no steps"):
        Plan(())
    with pytest.raises(PlanError, match="'a' is there already"):
        Plan((PlanStep("a", "x"), PlanStep("a", "y")))
    with pytest.raises(PlanError, match="'a' is there already"):
        Plan((PlanStep("a", "x"),), given=frozenset("a"))
    with pytest.raises(PlanError, match="'a' has no task"):
        Plan((PlanStep("a", " "),))
    with pytest.raises(PlanError, match="a plan is"):
        read_plan({"steps": ["go"]})


def test_steps_may_need_results_that_are_there():
    made = Plan((PlanStep("b", "x", ("a",)),), given=frozenset("a"))
    assert made.graph().get_ready() == ("b",)
    assert made.step("b").needs == ("a",)
    with pytest.raises(KeyError):
        made.step("a")


@given(st.dictionaries(st.integers(0, 6), st.lists(st.integers(0, 6), max_size=3), min_size=1))
def test_a_plan_is_accepted_exactly_where_an_order_of_its_steps_exists(needs: dict[int, list[int]]):
    left, done = dict(needs), set()
    while ready := [id for id, of in left.items() if done.issuperset(of)]:
        done.update(ready)
        left = {id: of for id, of in left.items() if id not in done}
    steps = tuple(PlanStep(str(id), "x", tuple(map(str, of))) for id, of in needs.items())
    if left:
        with pytest.raises(PlanError):
            Plan(steps)
    else:
        Plan(steps)


STEPS = [
    {"id": "s1", "task": "find a", "needs": []},
    {"id": "s2", "task": "find b", "needs": []},
    {"id": "s3", "task": "compare", "needs": ["s1", "s2"]},
]


def wrote(steps: object) -> Reply:
    return Reply("", (ToolCall("plan", json.dumps({"steps": steps})),))


def test_a_model_writes_its_plan_as_a_call(scripted):
    model = scripted(wrote(STEPS))
    found = write_plan(model, "Which is larger, a or b?")
    assert found.step("s3") == PlanStep("s3", "compare", ("s1", "s2"))
    assert "Task: Which is larger" in model.asked[0][0][-1]["content"]


def test_the_schema_allows_no_circle_and_no_unknown_step(scripted, watched):
    model = watched(scripted(wrote(STEPS)))
    write_plan(model, "?", most=3)
    schema = model.tools[0].parameters
    jsonschema.Draft202012Validator.check_schema(schema)

    def fits(*needs: list[str]) -> bool:
        steps = [{"id": f"s{at}", "task": "x", "needs": of} for at, of in enumerate(needs, 1)]
        return jsonschema.Draft202012Validator(schema).is_valid({"steps": steps})

    assert fits([], ["s1"], ["s2", "s1"])
    assert fits([])
    assert not fits(["s2"], ["s1"])
    assert not fits([], ["s2"])
    assert not fits([], ["s9"])
    assert not fits([], [], [], [])
    assert not fits()


def test_under_a_grammar_a_circle_cannot_be_written(scripted, watched, tiny):
    model = watched(scripted(wrote(STEPS)))
    write_plan(model, "?", most=3, done={"s9": "nine"})
    grammar = Grammar.json_schema(model.tools[0].parameters)

    def accepts(steps: list[dict[str, object]]) -> bool:
        constraint = constrain(tiny.tokenizer, grammar, vocab_size=258, end_ids=[256])
        for token in tiny.tokenizer.encode(json.dumps({"steps": steps}, separators=(",", ":")), add_special=False):
            if not constraint.mask()[token]:
                return False
            constraint.accept(token)
        return bool(constraint.finished or constraint.mask()[256])

    assert accepts(STEPS)
    assert accepts([{"id": "s1", "task": "x", "needs": ["s9"]}])
    assert not accepts([{"id": "s1", "task": "x", "needs": ["s2"]}, {"id": "s2", "task": "y", "needs": ["s1"]}])
    assert not accepts([{"id": "s1", "task": "x", "needs": ["s1"]}])
    assert not accepts([])


def test_a_model_that_plans_a_circle_is_told_and_tries_again(scripted):
    circle = [STEPS[0] | {"needs": ["s2"]}, STEPS[1] | {"needs": ["s1"]}]
    model = scripted(wrote(circle), wrote(STEPS[:1]))
    assert write_plan(model, "?").steps == (PlanStep("s1", "find a"),)
    with pytest.raises(ModelError, match="did not fill in 'plan'"):
        write_plan(scripted(wrote(circle)), "?", tries=1)


def test_planning_anew_knows_what_is_done_and_what_failed(scripted):
    model = scripted(wrote([{"id": "s2", "task": "compare", "needs": ["s1", "s3"]}]))
    found = write_plan(model, "?", done={"s1": "a is 5", "s3": "b is 6"}, failure="step 's2' failed: no")
    assert found.given == {"s1", "s3"}
    told = model.asked[0][0][-1]["content"]
    for words in ("Result of s1: a is 5", "An earlier plan failed: step 's2' failed: no"):
        assert words in told
