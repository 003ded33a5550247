"""The description of what is accepted, held to the functions that accept it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from bodies import READERS, changed
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from modelworks.serve.errors import ApiError
from modelworks.serve.fields import Fields
from modelworks.serve.shape import describe


def error_of(read: Any, body: Any) -> ApiError | None:
    try:
        read(Fields(body))
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize("read", READERS, ids=lambda read: getattr(read, "__qualname__", ""))
def test_a_description_is_a_schema_and_takes_what_is_taken(read: Any) -> None:
    schema = describe(read)
    Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    for body in READERS[read]:
        assert error_of(read, copy.deepcopy(body)) is None
        Draft202012Validator(schema).validate(body)


@pytest.mark.parametrize("read", READERS, ids=lambda read: getattr(read, "__qualname__", ""))
def test_what_the_description_refuses_is_refused_and_the_rest_taken(read: Any) -> None:
    """A body's form is right for both or for neither; the words of the schema name what else a field must be."""
    schema = describe(read)
    validator = Draft202012Validator(schema)
    seen = {"taken": 0, "refused": 0}

    @settings(max_examples=300)
    @given(changed(READERS[read]))
    def check(body: dict[str, Any]) -> None:
        error = error_of(read, copy.deepcopy(body))
        if not validator.is_valid(body):
            assert error is not None, body
            seen["refused"] += 1
        elif error is not None:
            assert "Expected" in json.dumps(schema)
            assert error.code in ("invalid_value", "invalid_schema", "unsupported_parameter"), (body, error)
            assert is_told(schema, error.param or ""), (body, error.message)
        else:
            seen["taken"] += 1

    check()
    assert min(seen.values()) > 10, seen


def is_told(schema: Any, param: str) -> bool:
    """Whether the schema says in words that the field at a path is checked further."""
    name = param.replace("]", "").replace("[", ".").split(".")
    name = [part for part in name if not part.isdecimal()]

    def walk(node: Any, path: list[str]) -> bool:
        if not isinstance(node, dict):
            return False
        if any(walk(way, path) for way in node.get("anyOf", ())):
            return True
        if "items" in node and walk(node["items"], path):
            return True
        if not path:
            return False
        field = node.get("properties", {}).get(path[0], {})
        if len(path) == 1:
            said = field.get("description", "")
            return "Expected" in said or "Checked" in said
        return walk(field, path[1:])

    return walk(schema, name)


def test_the_choices_that_matter_are_told_apart_and_others_are_not() -> None:
    def read(fields: Fields) -> None:
        fields.choice("colour", ("red", "blue"), "red")
        if fields.choice("kind", ("a", "b"), "a") == "b":
            fields.needed_text("b")
        fields.close()

    closed = {"type": "null"}
    assert describe(read) == {
        "anyOf": [
            {
                "type": "object",
                "properties": {"colour": {"enum": ["red", "blue", None]}, "kind": {"enum": ["a", None]}},
                "additionalProperties": closed,
            },
            {
                "type": "object",
                "properties": {
                    "colour": {"enum": ["red", "blue", None]},
                    "kind": {"enum": ["b"]},
                    "b": {"type": "string"},
                },
                "required": ["b", "kind"],
                "additionalProperties": closed,
            },
        ]
    }
