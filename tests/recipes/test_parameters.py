"""What the reader of parameters learns: spans of values, and requests that have none."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from modelworks.evals.function_calls import Case


@pytest.fixture(scope="module")
def recipe(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("reader/parameters")


def case(query: str, **right: list[Any]) -> Case:
    kinds = {"city": "string", "days": "integer", "unit": "string"}
    properties = {name: {"type": kind, "description": f"The {name}. More"} for name, kind in kinds.items()}
    function = {"name": "weather", "description": "", "parameters": {"type": "dict", "properties": properties}}
    return Case("x", "simple_python", ({"role": "user", "content": query},), (function,), ({"weather": right},))


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("in Rome or rome", "Rome", ["Rome", "rome"]),
        ("Romeo in Rome.", "Rome", ["Rome"]),
        ("it cost 1,200 then 1200", 1200, ["1,200", "1200"]),
        ("for 3.5 hours, not 3", 3, ["3"]),
        ("about three days", 3, ["three"]),
        ("a rate of 5%", 0.05, ["5%"]),
        ("it is true", True, []),
        ("nothing", "", []),
    ],
)
def test_a_value_is_found_in_each_form_that_a_text_may_give_it(
    recipe: ModuleType, text: str, value: Any, said: Any
) -> None:
    assert [text[start:end] for start, end in recipe.spans(text, value)] == said


def test_each_value_of_a_case_is_an_answer_once_and_then_taken_out(recipe: ModuleType) -> None:
    asked = case("The weather in Rome for 3 days", city=["Rome"], days=[3], unit=["", "celsius"])
    made = list(recipe.of_case(asked, random.Random(0)))
    answers = {each.question.split("?")[0]: each for each in made if each.passage == asked.query}
    assert {name: len(each.spans) for name, each in answers.items()} == {"What city": 1, "What days": 1, "What unit": 0}
    start, end = answers["What city"].spans[0]
    assert asked.query[start:end] == "Rome"
    without = [each for each in made if each.passage != asked.query]
    assert all(each.spans == () for each in without)
    assert {each.passage for each in without} >= {"The weather in for 3 days", "The weather in Rome for days"}
    assert len(without) == 4


def test_a_value_that_is_said_in_no_form_and_must_be_is_left_out(recipe: ModuleType) -> None:
    assert list(recipe.of_case(case("How warm is it", city=["Rome"]), random.Random(0))) == []


def test_a_dialogue_says_what_it_calls_and_lacks_what_it_asks_for(recipe: ModuleType) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [{"function": {"name": "weather", "parameters": schema}}]

    def row(request: str, name: str, arguments: str) -> dict[str, Any]:
        call = {"function": {"name": name, "arguments": arguments}}
        return {"messages": [{"role": "user", "content": request}, {"tool_calls": [call]}], "tools": tools}

    def made(row: dict[str, Any]) -> dict[str, int]:
        found = recipe.of_dialogue(row, random.Random(0))
        return {each.question.split("?")[0]: len(each.spans) for each in found}

    assert made(row("Rain in Oslo?", "weather", '{"city": "Oslo"}')) == {"What city": 1, "What days": 0}
    lacking = '{"question": "To use weather I need: city (The city)"}'
    assert made(row("Rain there?", "ask_user", lacking)) == {"What city": 0}
