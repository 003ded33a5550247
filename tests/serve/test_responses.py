"""The Responses API through the official client."""

from __future__ import annotations

import json
from typing import Any

import pytest

URL = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city":"Paris"}}\n</tool_call>'


def respond(served, given: Any, **more: Any) -> Any:
    return served.openai.responses.create(model="echo", input=given, **{"temperature": 0} | more)


def test_text_in_text_out(served) -> None:
    response = respond(served, "Good day.", instructions="Be kind.")
    assert (response.status, response.output_text, response.error) == ("completed", "Good day.", None)
    assert response.instructions == "Be kind."
    assert served.model.prompts[-1].startswith("system\nBe kind.\n")
    assert (response.usage.output_tokens, response.usage.total_tokens) == (10, response.usage.input_tokens + 10)


def test_the_events_of_a_stream(served) -> None:
    events = list(respond(served, "Hi.", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hi."
    whole, last = respond(served, "Hi."), events[-1].response
    assert last.output_text == whole.output_text == "Hi."
    assert last.usage.total_tokens == whole.usage.total_tokens
    assert events[0].response.output == []


def test_the_clients_own_accumulation(served) -> None:
    with served.openai.responses.stream(model="echo", input="Hello there", temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "Hello there"


def test_an_answer_that_is_cut_is_incomplete(served) -> None:
    response = respond(served, "Good day.", max_output_tokens=4)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output_text == "Good"
    *_, last = respond(served, "Good day.", max_output_tokens=4, stream=True)
    assert (last.type, last.response.output_text) == ("response.incomplete", "Good")


def test_a_call_and_its_result(served) -> None:
    response = respond(served, f"Look:\n{PARIS}", tools=[WEATHER])
    assert [item.type for item in response.output] == ["message", "function_call"]
    call = response.output[1]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        *[item.model_dump(exclude_none=True) for item in response.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
        {"type": "message", "role": "user", "content": "thanks"},
    ]
    assert respond(served, given, tools=[WEATHER]).output_text == "thanks"
    prompt = served.model.prompts[-1]
    assert 'assistant\nLook:\n<tool_call>\n{"name": "get_weather"' in prompt
    assert "<tool_response>\nrain\n</tool_response>" in prompt


def test_the_events_of_a_call(served) -> None:
    events = list(respond(served, PARIS, tools=[WEATHER], stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert json.loads(events[4].arguments) == {"city": "Paris"}
    assert events[2].item.status == "in_progress"
    assert events[-1].response.output[0].call_id == events[2].item.call_id


def test_a_schema(served) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "point", "schema": schema}}
    assert respond(served, '{"x":1}', text=text).output_text == '{"x":1}'


def test_logprobs(served) -> None:
    response = respond(served, "ab", include=["message.output_text.logprobs"], top_logprobs=2)
    logprobs = response.output[0].content[0].logprobs
    assert [token.token for token in logprobs] == ["a", "b"]
    assert len(logprobs[0].top_logprobs) == 2


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": "["}]}, "input[0].arguments"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"include": [{}]}, "include"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"max_tokens": 3}, "max_tokens"),
    ],
)
def test_a_wrong_field_is_named(served, more: dict[str, Any], param: str) -> None:
    assert served.refused(URL, {"model": "echo", "input": "x"} | more)["param"] == param


def test_an_error_in_a_stream_is_an_event(serving, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serving(stop_seconds=1)
    served.model.pause = 0.01
    with served.http.stream("POST", URL, json={"model": "echo", "input": "x" * 500, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        served.service.engine.close(drain=False)
        kinds = [line for line in lines if line.startswith("event: ")]
    assert kinds[-1] == "event: response.failed"


def test_an_adapter_is_a_model(adapted) -> None:
    texts = {}
    for name in ("pirate", "poet", "tiny"):
        more = {"model": name, "input": "Ahoy", "max_output_tokens": 9, "temperature": 0}
        answer = adapted.openai.responses.create(**more)
        assert answer.model == name
        texts[name] = answer.output_text
        events = list(adapted.openai.responses.create(**more, stream=True))
        assert events[-1].response.model == name
        assert events[-1].response.output_text == answer.output_text
    assert len(set(texts.values())) == 3
    adapted.refused("/v1/responses", {"model": "bard", "input": "Ahoy"}, status=404)
