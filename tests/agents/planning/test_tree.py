from __future__ import annotations

import math
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.halt import Halt
from modelworks.agents.planning.budget import Budget, SpentError
from modelworks.agents.planning.tree import (
    BestFirst,
    BreadthFirst,
    DepthFirst,
    Expanded,
    Order,
    Outcome,
    finished,
    search,
)

Graph = dict[int, list[int]]
COMPLETE: list[Order] = [BreadthFirst(None), DepthFirst(), BestFirst()]
graphs = st.integers(1, 9).flatmap(
    lambda size: st.fixed_dictionaries(
        {node: st.lists(st.integers(0, size - 1), max_size=4) for node in range(size)},
    )
)


def steps_to_goal(graph: Graph, goals: set[int]) -> float:
    """By brute force."""
    level, seen, steps = {0}, {0}, 0
    while level:
        if level & goals:
            return steps
        level = {child for node in level for child in graph[node]} - seen
        seen |= level
        steps += 1
    return math.inf


@given(graphs, st.sets(st.integers(0, 8), max_size=2), st.integers(0, 5), st.lists(st.floats(-1, 1), min_size=9))
def test_a_goal_is_found_exactly_where_there_is_one(graph: Graph, goals: set[int], depth: int, values: list[float]):
    """Cycles, states reached again sooner or later, misleading values: nothing hides a goal within the depth."""
    shortest = steps_to_goal(graph, goals)
    for order in COMPLETE:
        outcome = finished(
            search(
                0,
                propose=graph.__getitem__,
                goal=goals.__contains__,
                evaluate=lambda states: [values[state] for state in states],
                order=order,
                depth=depth,
            )
        )
        assert outcome.found == (shortest <= depth)
        assert outcome.why == ("found" if outcome.found else "exhausted")
        assert len(outcome.path) - 1 <= depth
        assert outcome.path[0] == 0
        assert all(after in graph[before] for before, after in zip(outcome.path, outcome.path[1:]))
        assert (outcome.state in goals) == outcome.found
        if order == COMPLETE[0] and outcome.found:
            assert len(outcome.path) - 1 == shortest


@given(graphs)
def test_breadth_first_expands_and_values_each_state_once(graph: Graph):
    asked: list[int] = []
    valued: list[int] = []

    def propose(state: int) -> list[int]:
        asked.append(state)
        return graph[state]

    def evaluate(states: list[int]) -> list[float]:
        valued.extend(states)
        return [0.0] * len(states)

    steps = search(0, propose=propose, goal=lambda _: False, evaluate=evaluate, order=BreadthFirst(None), depth=20)
    outcome = finished(steps)
    assert len(asked) == len(set(asked)) == outcome.expanded == outcome.states
    assert sorted(valued) == sorted(set(asked) - {0})


def expanded(graph: Graph, values: dict[int, float], order: Order, depth: int = 9) -> list[int]:
    steps = search(
        0,
        propose=lambda state: graph.get(state, []),
        goal=lambda _: False,
        evaluate=lambda states: [values.get(state, 0.0) for state in states],
        order=order,
        depth=depth,
    )
    return [step.state for step in steps if isinstance(step, Expanded)]


TREE: Graph = {0: [1, 2, 3], 1: [4], 2: [5], 3: [6]}
VALUES = {1: 1.0, 2: 3.0, 3: 2.0, 4: 9.0, 5: 0.5, 6: 4.0}


def test_each_order_is_the_papers():
    assert expanded(TREE, VALUES, BreadthFirst(2)) == [0, 2, 3, 6, 5]
    assert expanded(TREE, VALUES, BreadthFirst(1)) == [0, 2, 5]
    assert expanded(TREE, VALUES, DepthFirst()) == [0, 2, 5, 3, 6, 1, 4]
    assert expanded(TREE, VALUES, DepthFirst(prune=1.5)) == [0, 2, 3, 6]
    assert expanded(TREE, VALUES, BestFirst()) == [0, 2, 3, 6, 1, 4, 5]
    assert expanded(TREE, VALUES, BestFirst(prune=2.0)) == [0, 2, 3, 6]


def test_of_equals_the_first_proposed_goes_first():
    assert expanded(TREE, {}, BreadthFirst(1)) == [0, 1, 4]
    assert expanded(TREE, {}, DepthFirst()) == [0, 1, 4, 2, 5, 3, 6]


def test_states_with_one_key_are_one():
    def key(state: str) -> Hashable:
        return "".join(sorted(state))

    steps = list(search("", propose=lambda s: [s + "a", s + "b"], goal=lambda s: False, key=key, depth=2))
    assert isinstance(steps[-1], Outcome)
    assert steps[-1].states == 6  # "", a, b, aa, ab = ba, bb
    assert [step.fresh for step in steps if isinstance(step, Expanded)] == [2, 2, 1]


def test_proposals_are_read_up_to_the_goal():
    budget = Budget(calls=10)

    def propose(state: int):
        for child in (1, 2, 3, 4):
            budget.take()
            yield child

    *steps, outcome = search(0, propose=propose, goal=lambda state: state == 2, budget=budget)
    assert steps == [Expanded(0, 0, proposed=2, fresh=2, calls=2)]
    assert outcome == Outcome("found", (0, 2), True, expanded=1, states=3)


def test_a_spent_budget_ends_it_at_the_most_promising_state():
    budget = Budget(calls=5)

    def propose(state: int):
        for child in range(2 * state + 1, 2 * state + 3):
            budget.take()
            yield child

    outcome = finished(
        search(0, propose=propose, goal=lambda _: False, evaluate=lambda states: [-s for s in states], budget=budget)
    )
    assert (outcome.why, outcome.found, outcome.path) == ("spent", False, (0, 1))
    assert budget.spent.calls == 5


def test_an_evaluator_spends_too():
    def evaluate(states: object) -> list[float]:
        raise SpentError("spent")

    assert finished(search(0, propose=lambda s: [s + 1], goal=lambda _: False, evaluate=evaluate)).why == "spent"


def test_expansions_and_a_halt_end_it():
    halt = Halt()
    steps = search(0, propose=lambda s: [s + 1], goal=lambda _: False, depth=99, expansions=7, halt=halt)
    assert finished(steps) == Outcome("expansions", tuple(range(8)), False, 7, 8)
    steps = search(0, propose=lambda s: [s + 1], goal=lambda _: False, depth=99, halt=halt)
    next(steps)
    halt.set()
    assert finished(steps).why == "halted"


def test_a_root_that_is_the_goal_costs_nothing():
    assert list(search(1, propose=lambda _: 1 / 0, goal=lambda _: True)) == [Outcome("found", (1,), True, 0, 1)]


@pytest.mark.parametrize("values", [[math.nan, 1.0], [1.0]])
def test_a_value_must_be_a_number_for_each_state(values):
    with pytest.raises(ValueError):
        finished(search(0, propose=lambda s: [1, 2], goal=lambda _: False, evaluate=lambda _: values))


def test_a_beam_has_states():
    with pytest.raises(ValueError, match="beam"):
        BreadthFirst(0)
