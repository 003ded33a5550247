"""The checker against the leaderboard's own answer files, and against what its published rules say of small cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelworks.core.errors import ConfigError
from modelworks.evals.function_calls import CATEGORIES, Case, example_calls, is_right, load_cases, why_wrong

DATA = Path(__file__).parents[3] / "shared" / "data" / "agents"


def case(right: dict[str, list[Any]], required: tuple[str, ...] = (), **properties: dict[str, Any]) -> Case:
    """A case of one function f, with one call that is right."""
    parameters = {"type": "dict", "properties": properties, "required": list(required)}
    return Case("x", "simple_python", (), ({"name": "f", "parameters": parameters},), ({"f": right},))


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_sets_own_answers_are_right_and_perturbed_ones_wrong(category: str) -> None:
    if not DATA.exists():
        pytest.skip(f"{DATA} is absent")
    cases = load_cases(DATA, category)
    assert len(cases) == {"simple_python": 400, "irrelevance": 240}.get(category, 200)
    assert [each.id for each in cases if not is_right(each, example_calls(each))] == []
    for each in cases:
        calls = example_calls(each)
        name, arguments = calls[0] if calls else (each.functions[0]["name"], {})
        renamed = [(f"{name}_", arguments), *calls[1:]]
        wrong = [renamed, [*calls, (name, arguments)], *([calls[1:]] if calls else [])]
        wrong += [[(name, {**arguments, "not a parameter": 1}), *calls[1:]]]
        for key in arguments:
            wrong.append([(name, {**arguments, key: "certainly not"}), *calls[1:]])
            if key in each.functions[0]["parameters"].get("required", ()) and len(each.functions) == 1:
                wrong.append([(name, {k: v for k, v in arguments.items() if k != key}), *calls[1:]])
        assert [given for given in wrong if is_right(each, given)] == []


@pytest.mark.parametrize(
    ("schema", "right", "value", "agrees"),
    [
        ({"type": "string"}, ["New York, NY"], "new york ny", True),
        ({"type": "string"}, ["it's"], 'it"s', True),
        ({"type": "string"}, ["2"], 2, False),
        ({"type": "integer"}, [3], 3.0, False),
        ({"type": "integer"}, [3], True, False),
        ({"type": "float"}, [3.0], 3, True),
        ({"type": "float"}, [2.5], 2, False),
        ({"type": "boolean"}, [True], 1, False),
        ({"type": "array", "items": {"type": "string"}}, [["a b", "C"]], ["A-B", "c"], True),
        ({"type": "array", "items": {"type": "string"}}, [["a", "b"]], ["b", "a"], False),
        ({"type": "array", "items": {"type": "float"}}, [[1.5, 2.0]], [1.5, 2], False),
        ({"type": "array", "items": {"type": "float"}}, [[1, 2]], [1.0, 2.0], True),
        ({"type": "tuple", "items": {"type": "float"}}, [[1.5, 2.5]], [1.5, 2.5], True),
        ({"type": "dict"}, [{"a": ["x", "y"], "b": [1, ""]}], {"a": "Y"}, True),
        ({"type": "dict"}, [{"a": ["x"]}], {"a": "x", "b": 1}, False),
        ({"type": "dict"}, [{"a": ["x"], "b": [1]}], {"a": "x"}, False),
        ({"type": "array", "items": {"type": "dict"}}, [[{"a": [1]}, {"a": [2]}]], [{"a": 1}, {"a": 2}], True),
        ({"type": "array", "items": {"type": "dict"}}, [[{"a": [1]}, {"a": [2]}]], [{"a": 1}], False),
        # where the answers are of another type than the schema, theirs is taken, too
        ({"type": "integer"}, ["n"], "n", True),
        ({"type": "integer"}, ["n"], "m", False),
    ],
)  # fmt: skip
def test_values_are_compared_as_the_checker_does(schema: Any, right: list[Any], value: Any, agrees: bool) -> None:
    assert is_right(case({"p": right}, ("p",), p=schema), [("f", {"p": value})]) is agrees


def test_what_may_be_left_out_and_what_may_not() -> None:
    one = case({"p": [1], "q": [2, ""], "r": [3]}, ("p",), **{key: {"type": "integer"} for key in "pqrs"})
    assert is_right(one, [("f", {"p": 1, "r": 3})])
    assert why_wrong(one, [("f", {"p": 1})]) == "r is missing"
    assert why_wrong(one, [("f", {"r": 3})]) == "p is missing"
    assert why_wrong(one, [("f", {"p": 1, "r": 3, "s": 4})]) == "s is no parameter that is asked for"
    assert why_wrong(one, []) == "0 calls, expected 1"


def test_parallel_calls_match_in_any_order_and_each_once() -> None:
    one = case({"p": [1]}, ("p",), p={"type": "integer"})
    both = Case("x", "parallel", (), one.functions, ({"f": {"p": [1]}}, {"f": {"p": [2]}}))
    assert is_right(both, [("f", {"p": 2}), ("f", {"p": 1})])
    assert not is_right(both, [("f", {"p": 1}), ("f", {"p": 1})])


def test_schemas_are_json_schemas_and_a_parameter_may_be_called_as_a_keyword() -> None:
    properties = {
        "type": {"type": "float", "optional": True},
        "items": {"type": "tuple", "items": {"type": "any"}},
        "properties": {"type": "dict", "properties": {"x": {"type": "float"}}},
    }
    (schema,) = case({}, **properties).schemas()
    assert schema["parameters"] == {
        "type": "object",
        "properties": {
            "type": {"type": "number"},
            "items": {"type": "array", "items": {}},
            "properties": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
        "required": [],
    }


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no category"):
        load_cases(tmp_path, "java")
    with pytest.raises(ConfigError, match="No such file"):
        load_cases(tmp_path, "multiple")
    (tmp_path / "bfcl_multiple.jsonl").write_text(json.dumps({"id": "a", "question": [[]], "function": []}))
    (tmp_path / "bfcl_multiple_answers.jsonl").write_text(json.dumps({"id": "b", "ground_truth": []}))
    with pytest.raises(ConfigError, match="do not belong together"):
        load_cases(tmp_path, "multiple")
    (tmp_path / "bfcl_multiple.jsonl").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_cases(tmp_path, "multiple")
