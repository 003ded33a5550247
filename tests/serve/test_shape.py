"""The description of what is accepted, held to the functions that accept it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from modelworks.serve.chat import ChatRequest
from modelworks.serve.completions import CompletionRequest
from modelworks.serve.documents import read_question
from modelworks.serve.embeddings import EmbeddingRequest
from modelworks.serve.errors import ApiError
from modelworks.serve.fields import Fields
from modelworks.serve.responses import ResponseRequest
from modelworks.serve.shape import describe

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SHARED = {"temperature": 0.5, "top_p": 1, "top_k": 3, "seed": -1, "stop": ["x"], "logit_bias": {"7": 1}, "stream": True}
READERS: dict[Any, list[dict[str, Any]]] = {
    ChatRequest.parse: [
        SHARED
        | {
            "model": "m",
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
                {"role": "tool", "tool_call_id": "c", "content": "b"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 2,
            "user": "u",
            "modalities": ["text"],
        },
        {
            "model": "m",
            "messages": [{"role": "user", "content": "a", "name": "n"}],
            "tool_choice": "auto",
            "response_format": {"type": "grammar", "syntax": "regex", "definition": "a"},
        },
    ],
    CompletionRequest.parse: [
        SHARED | {"model": "m", "prompt": ["a", [1, 2]], "echo": True, "best_of": 1, "suffix": None},
        {"model": "m", "prompt": [1, 2], "logprobs": 3, "response_format": {"type": "json_object"}},
    ],
    EmbeddingRequest.parse: [
        {"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 4, "user": "u"},
        {"model": "m", "input": "a"},
    ],
    ResponseRequest.parse: [
        {
            "model": "m",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "b"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}, "verbosity": "low"},
            "include": ["message.output_text.logprobs"],
            "truncation": "disabled",
            "previous_response_id": None,
            "background": False,
        },
        {"model": "m", "input": "a", "instructions": "b", "max_output_tokens": 3},
    ],
    read_question: [{"question": "who?"}],
}
OTHERS = [None, True, 0, 1, 1.0, 1.5, -3, 10**9, "", "x", "user", [], ["x"], [1], {}, {"type": "text"}, [[]], [{}]]


def error_of(read: Any, body: Any) -> ApiError | None:
    try:
        read(Fields(body))
    except ApiError as error:
        return error
    return None


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within a value, as what holds it and under which key."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


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
    @given(st.data())
    def check(data: st.DataObject) -> None:
        body = copy.deepcopy(data.draw(st.sampled_from(READERS[read])))
        for _ in range(data.draw(st.integers(1, 2))):
            holder, key = data.draw(st.sampled_from(list(places(body)) or [(body, "n")]))
            if isinstance(holder, dict) and data.draw(st.booleans()):
                key = data.draw(st.sampled_from([*holder, "colour", "n", "type", "content", "tool_calls", "tools"]))
            if data.draw(st.booleans()) and (isinstance(holder, list) or key in holder):
                del holder[key]
            else:
                holder[key] = copy.deepcopy(data.draw(st.sampled_from(OTHERS)))
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
