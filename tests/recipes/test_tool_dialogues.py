"""The dialogues that `recipes/tool_sft.toml` learns: right calls, of no case that a benchmark asks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from modelworks.agents.arguments import checked
from modelworks.data.files import FileRow
from modelworks.data.formats import to_sample
from modelworks.data.sample import Dialogue
from modelworks.evals.function_calls import CATEGORIES, load_cases
from modelworks.train.run import read_recipe

BFCL = Path(__file__).parents[3] / "shared" / "data" / "agents"


@pytest.fixture(scope="module")
def maker(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tools/dialogues")


@pytest.fixture(scope="module")
def rows(maker: ModuleType) -> list[dict[str, Any]]:
    return list(maker.dialogues(1500))


def calls(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    made = [call["function"] for call in row["messages"][1].get("tool_calls", ())]
    return [(each["name"], json.loads(each["arguments"])) for each in made]


def test_every_call_is_of_a_tool_that_is_offered_and_satisfies_its_schema(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
        for name, arguments in calls(row):
            assert checked(offered[name], arguments) == arguments
        assert "{" not in row["messages"][0]["content"]


def test_all_kinds_are_there_and_a_seed_repeats_them(maker: ModuleType, rows: list[dict[str, Any]]) -> None:
    first = [calls(row)[0][0] for row in rows]
    assert 0.1 < first.count("no_tool") / len(rows) < 0.2
    assert 0.05 < first.count("ask_user") / len(rows) < 0.15
    assert 0.5 < sum(len(calls(row)) == 1 for row in rows) / len(rows) < 0.8
    assert all([tool["function"]["name"] for tool in row["tools"][-2:]] == ["no_tool", "ask_user"] for row in rows)
    assert list(maker.dialogues(20)) == rows[:20]
    assert list(maker.dialogues(20, seed=1)) != rows[:20]


def test_a_question_names_what_the_request_does_not_say(rows: list[dict[str, Any]]) -> None:
    asked = [row for row in rows if calls(row)[0][0] == "ask_user"]
    for row in asked:
        ((_, arguments),) = calls(row)
        found = re.fullmatch(r"To use (\S+) I need: (\w+) \(.+\)", arguments["question"])
        assert found is not None
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
        assert found[2] in schemas[found[1]]["required"]


def test_they_are_rows_that_training_reads(rows: list[dict[str, Any]], request: pytest.FixtureRequest) -> None:
    sample = to_sample(FileRow("x.jsonl:1", rows[0]))
    assert isinstance(sample, Dialogue)
    assert sample.tools
    recipe = read_recipe(request.config.rootpath / "recipes" / "tool_sft.toml", ())
    assert recipe.kind == "sft"


def test_no_function_and_no_query_is_one_of_bfcl_s(maker: ModuleType) -> None:
    if not BFCL.exists():
        pytest.skip(f"{BFCL} is absent")
    cases = [case for category in CATEGORIES for case in load_cases(BFCL, category)]
    assert {tool.name for tool in maker.catalogue()}.isdisjoint(
        each["name"] for case in cases for each in case.functions
    )
    asked = {row["messages"][0]["content"].lower() for row in maker.dialogues(2000)}
    assert asked.isdisjoint(case.query.lower() for case in cases)
