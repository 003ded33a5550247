"""Bodies of requests that are right, for each function that reads one; and such bodies with something changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from modelworks.serve.chat import ChatRequest
from modelworks.serve.completions import CompletionRequest
from modelworks.serve.documents import read_question
from modelworks.serve.embeddings import EmbeddingRequest
from modelworks.serve.responses import ResponseRequest

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


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within a value, as what holds it and under which key."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def changed(draw: Any, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """One of some bodies, of which one or two values are others, are gone or are new."""
    body = copy.deepcopy(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(1, 2))):
        holder, key = draw(st.sampled_from(list(places(body)) or [(body, "n")]))
        if isinstance(holder, dict) and draw(st.booleans()):
            key = draw(st.sampled_from([*holder, "colour", "n", "type", "content", "tool_calls", "tools"]))
        if draw(st.booleans()) and (isinstance(holder, list) or key in holder):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(OTHERS)))
    return body
