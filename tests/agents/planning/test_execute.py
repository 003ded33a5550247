from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.agents.halt import Halt
from modelworks.agents.loop import Agent
from modelworks.agents.model import Halted, ModelError, Reply
from modelworks.agents.planning.execute import (
    Ended,
    Failed,
    Finished,
    Planned,
    Started,
    by_agent,
    execute,
    plan_and_execute,
)
from modelworks.agents.planning.plan import Plan, PlanError, PlanStep
from modelworks.text.tool_calls import ToolCall


def plan(**needs: str) -> Plan:
    return Plan(tuple(PlanStep(id, f"do {id}", tuple(of.split())) for id, of in needs.items()))


def joined(step: PlanStep, results: Mapping[str, str], halt: Halt) -> str:
    return f"{step.id}({','.join(results[need] for need in step.needs)})"


def kinds(events: list[object]) -> list[tuple[str, str]]:
    return [(type(event).__name__, event.step.id) for event in events if hasattr(event, "step")]


dags = st.integers(1, 7).flatmap(
    lambda size: st.tuples(*[st.sets(st.integers(0, max(0, at - 1)), max_size=at) for at in range(size)])
)


@settings(max_examples=60)
@given(dags, st.randoms(use_true_random=False), st.integers(1, 4), st.sets(st.integers(0, 6), max_size=2))
def test_every_step_runs_once_after_what_it_needs(needs, random, parallel, failing):
    """And what does not need a failed step runs all the same."""
    steps = [PlanStep(str(at), "x", tuple(map(str, sorted(of)))) for at, of in enumerate(needs)]
    random.shuffle(steps)
    running: list[str] = []
    most, lock = 0, threading.Lock()

    def work(step: PlanStep, results: Mapping[str, str], halt: Halt) -> str:
        nonlocal most
        with lock:
            running.append(step.id)
            most = max(most, len(running))
        assert results.keys() == set(step.needs)
        time.sleep(0.0005)
        with lock:
            running.remove(step.id)
        if int(step.id) in failing:
            raise ValueError("no")
        return step.id

    events = list(execute(Plan(tuple(steps)), work, parallel=parallel))
    lost = set(failing) & set(range(len(needs)))
    for at, of in enumerate(needs):
        if lost & of:
            lost.add(at)
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert ended.results == {str(at): str(at) for at in range(len(needs)) if at not in lost}
    assert ended.why == ("failed" if lost else "done")
    started = [event.step.id for event in events if isinstance(event, Started)]
    assert len(started) == len(set(started))
    assert most <= parallel
    order = [event.step.id if isinstance(event, Finished) else None for event in events]
    for event in events:
        if isinstance(event, Started):
            assert all(order.index(need) < events.index(event) for need in event.step.needs)


def test_results_feed_those_who_need_them():
    *_, ended = execute(plan(c="a b", a="", b="a"), joined)
    assert ended == Ended("done", {"a": "a()", "b": "b(a())", "c": "c(a(),b(a()))"})


def test_independent_steps_run_at_the_same_time():
    together = threading.Barrier(3, timeout=10)

    def work(step: PlanStep, results: Mapping[str, str], halt: Halt) -> str:
        together.wait()
        return step.id

    *_, ended = execute(plan(a="", b="", c=""), work, parallel=3)
    assert ended.why == "done"


def test_a_failure_leads_to_another_plan_from_the_results_so_far():
    def work(step: PlanStep, results: Mapping[str, str], halt: Halt) -> str:
        if step.id == "b":
            raise RuntimeError("b is broken")
        return joined(step, results, halt)

    def replan(done: Mapping[str, str], failed: Failed) -> Plan:
        assert (done, failed.reason) == ({"a": "a()"}, "RuntimeError: b is broken")
        return Plan((PlanStep("d", "x", ("a",)),), given=frozenset("a"))

    events = list(execute(plan(a="", b="a", c="b"), work, replan=replan))
    assert kinds(events) == [
        ("Started", "a"),
        ("Finished", "a"),
        ("Started", "b"),
        ("Failed", "b"),
        ("Started", "d"),
        ("Finished", "d"),
    ]
    assert [type(event) for event in events].count(Planned) == 1
    assert events[-1] == Ended("done", {"a": "a()", "d": "d(a())"})


def test_plans_are_made_anew_only_so_often():
    asked: list[str] = []

    def work(step: PlanStep, results: Mapping[str, str], halt: Halt) -> str:
        raise PlanError(f"{step.id} will not do")

    def replan(done: Mapping[str, str], failed: Failed) -> Plan:
        asked.append(failed.reason)
        return plan(**{f"try{len(asked)}": ""})

    *_, ended = execute(plan(a=""), work, replan=replan, replans=2)
    assert asked == ["a will not do", "try1 will not do"]
    assert ended == Ended("failed", {}, "step 'try2' failed: try2 will not do")


def test_no_other_plan_is_an_end_that_says_why():
    def work(step: PlanStep, results: Mapping[str, str], halt: Halt) -> str:
        raise PlanError("no")

    def replan(done: Mapping[str, str], failed: Failed) -> Plan:
        return plan(x="x")

    *_, ended = execute(plan(a=""), work, replan=replan)
    assert (ended.why, ended.text[:44]) == ("failed", "step 'a' failed: no; and there is no other p")


def test_a_halt_reaches_what_runs_and_nothing_begins_after_it():
    halt, seen = Halt(), []

    def work(step: PlanStep, results: Mapping[str, str], inner: Halt) -> str:
        seen.append((step.id, inner.wait(30)))
        return "late"

    began = time.monotonic()
    events = []
    for event in execute(plan(a="", b="", c="", d="a"), work, parallel=2, halt=halt):
        events.append(event)
        if kinds(events) == [("Started", "a"), ("Started", "b")]:
            threading.Timer(0.05, halt.set).start()
    assert events[-1].why == "halted"
    assert [name for name, _ in kinds(events)].count("Started") == 2
    assert time.monotonic() - began < 10


def test_a_step_that_minds_no_halt_holds_nobody_up():
    halt, stuck = Halt(), threading.Event()

    def work(step: PlanStep, results: Mapping[str, str], inner: Halt) -> str:
        halt.set()
        stuck.wait(30)
        return "late"

    *_, ended = execute(plan(a=""), work, halt=halt)
    assert ended.why == "halted"
    stuck.set()


def test_closing_the_iterator_halts_the_steps():
    runs, was_halted = threading.Event(), threading.Event()

    def work(step: PlanStep, results: Mapping[str, str], inner: Halt) -> str:
        runs.set()
        if inner.wait(30):
            was_halted.set()
        return ""

    events = execute(plan(a="", b="a"), work)
    next(events)
    assert runs.wait(10)
    events.close()
    assert was_halted.wait(10)


def test_given_results_must_be_given():
    made = Plan((PlanStep("b", "x", ("a",)),), given=frozenset("a"))
    *_, ended = execute(made, joined, given={"a": "A"})
    assert ended.results == {"a": "A", "b": "b(A)"}
    with pytest.raises(ValueError, match="takes 'a' as given"):
        list(execute(made, joined))


def wrote(*steps: tuple[str, str, list[str]]) -> Reply:
    made = {"steps": [{"id": id, "task": task, "needs": needs} for id, task, needs in steps]}
    return Reply("", (ToolCall("plan", json.dumps(made)),))


def test_a_model_plans_agents_work_and_what_fails_is_planned_anew(scripted):
    planner = scripted(
        wrote(("s1", "find a", []), ("s2", "find b", []), ("s3", "compare", ["s1", "s2"])),
        wrote(("s4", "guess", ["s1"])),
    )
    worker = scripted(Reply("5"), ModelError("the server is down"), Reply("5 it is"))
    *events, ended = plan_and_execute(planner, "Which is larger?", by_agent(Agent(worker)), parallel=1)
    assert kinds(events) == [
        ("Started", "s1"),
        ("Finished", "s1"),
        ("Started", "s2"),
        ("Failed", "s2"),
        ("Started", "s4"),
        ("Finished", "s4"),
    ]
    assert ended == Ended("done", {"s1": "5", "s4": "5 it is"})
    told = planner.asked[1][0][-1]["content"]
    for words in ("Result of s1: 5", "step 's2' (find b) failed: run ", "the server is down"):
        assert words in told
    assert worker.asked[-1][0][-1]["content"] == "guess\n\nResult of s1: 5"


def test_an_agents_step_keeps_the_rules_and_the_journal_of_its_parent(scripted):
    boss = Agent(scripted(Reply("boss")))
    parent = boss.run("task")
    list(parent)
    *_, ended = execute(plan(a=""), by_agent(Agent(scripted(Reply("done"))), parent))
    assert ended.results == {"a": "done"}
    assert boss.journal.find(f"{parent.id}.a").id == f"{parent.id}.a"


def test_a_halt_stops_the_agents_and_the_planner(scripted):
    halt, waits = Halt(), threading.Event()

    class Waits(type(scripted())):
        def reply(self, *_: Any, halt: Any = None, **__: Any) -> Reply:
            waits.set()
            assert halt.wait(30)
            raise Halted("halted")

    planner = scripted(wrote(("s1", "wait", [])))
    threading.Thread(target=lambda: waits.wait(30) and halt.set()).start()
    *_, ended = plan_and_execute(planner, "?", by_agent(Agent(Waits([]))), halt=halt)
    assert ended.why == "halted"
    assert list(plan_and_execute(scripted(), "?", joined, halt=halt)) == [Ended("halted", {}, "halted")]
