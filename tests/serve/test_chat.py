"""Chat through the official client: text, streams, choices, log-probabilities, formats, tools and refusals."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.engine.sample import Sampling

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city":"Paris"}}\n</tool_call>'
ROME = PARIS.replace("Paris", "Rome")
URL = "/v1/chat/completions"
NAMED = {"type": "function", "function": {"name": "nothing"}}
ENDING = {str(ord('"')): 6.0, str(ord("}")): 7.0}
"""Strings and objects end as soon as they may, where the grammar does not take what the model would say."""


def ask(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}]} | more


def streamed(served, text: str, **more: Any) -> list[Any]:
    return list(served.say(text, stream=True, **more))


def test_an_answer(served) -> None:
    answer = served.say("Good day.")
    assert (answer.object, answer.model, len(answer.choices)) == ("chat.completion", "echo", 1)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "Good day."
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_is_the_answer_in_pieces(served) -> None:
    chunks = streamed(served, "Good day.")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Good day."
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("more", [{}, {"max_tokens": 3}, {"stop": ["d"]}, {"n": 3, "seed": 5, "temperature": 1}])
def test_usage_of_a_stream_is_that_of_the_whole_and_the_tokenizers(served, more: dict[str, Any]) -> None:
    """Usage doubled when streaming (agents.md fault 7, pydantic-ai#2770)."""
    whole = served.say("Good day.", **more).usage
    *_, last = streamed(served, "Good day.", stream_options={"include_usage": True}, **more)
    assert last.choices == []
    told = last.usage
    assert (told.prompt_tokens, told.completion_tokens, told.total_tokens) == (
        whole.prompt_tokens,
        whole.completion_tokens,
        whole.total_tokens,
    )
    prompt = "xuser\nGood day.x\nxassistant\n"  # a byte is a token, and so is a control token
    assert whole.prompt_tokens == len(prompt)
    if more == {}:
        assert whole.completion_tokens == len("Good day.") + 1  # and the token that ends it
    if "max_tokens" in more:
        assert whole.completion_tokens == 3


def test_max_tokens_by_both_names(served) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        choice = served.say("Good day.", **{name: 4}).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("Good", "length")


def test_an_emoji_of_four_tokens_arrives_whole(served) -> None:
    """A codepoint split over tokens gives U+FFFD (agents.md fault 2); a tail cut off is flushed once."""
    pieces = [chunk.choices[0].delta.content for chunk in streamed(served, "a🙂b")]
    assert [piece for piece in pieces if piece] == ["a", "🙂", "b"]
    assert served.say("a🙂b", max_tokens=3).choices[0].message.content == "a\ufffd"
    assert "".join(c.choices[0].delta.content or "" for c in streamed(served, "a🙂b", max_tokens=3)) == "a\ufffd"


def test_a_stop_string_never_shows_and_a_false_prefix_does(served) -> None:
    """Stop prefix leaks (agents.md fault 3, vllm#3574)."""
    for stop, text, shown in (
        ("\nUser:", "fine\nUser: x", "fine"),
        ("\nUser:", "fine\nUsed", "fine\nUsed"),
        ("\nUser:", "fine\nUser", "fine\nUser"),
    ):
        chunks = streamed(served, text, stop=stop)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == shown
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert served.say(text, stop=[stop]).choices[0].message.content == shown


def test_choices_differ_and_a_seed_repeats_them(serving) -> None:
    served = serving()
    served.model.likelihood = 4.0

    def texts(**more: Any) -> list[str]:
        return [choice.message.content for choice in served.say("abcdefgh", n=3, temperature=1, **more).choices]

    assert len(set(texts(seed=7))) == 3
    assert texts(seed=7) == texts(seed=7) != texts(seed=8)
    assert texts(seed=-3) == texts(seed=-3)
    indexes = {chunk.choices[0].index for chunk in streamed(served, "abcdefgh", n=3, temperature=1)}
    assert indexes == {0, 1, 2}


def test_logprobs_are_the_answers_tokens(served) -> None:
    choice = served.say("aé", logprobs=True, top_logprobs=2).choices[0]
    tokens = choice.logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes) == "aé".encode()
    assert all(len(token.top_logprobs) == 2 and token.top_logprobs[0].token == token.token for token in tokens)
    assert all(-0.2 < token.logprob < 0 for token in tokens)
    chunks = streamed(served, "aé", logprobs=True, top_logprobs=2)
    told = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert told == tokens
    assert served.say("a").choices[0].logprobs is None


def test_logit_bias_forbids_and_forces(served) -> None:
    assert served.say("aaa", logit_bias={str(ord("a")): -100}, max_tokens=2).choices[0].message.content != "aa"
    assert served.say("aaa", logit_bias={str(ord("z")): 100}, max_tokens=2).choices[0].message.content == "zz"


def test_penalties_reach_the_sampler(served) -> None:
    assert served.say("a" * 9, frequency_penalty=2, max_tokens=9).choices[0].message.content != "a" * 9


def test_a_json_object_and_a_json_schema(served) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "point", "schema": schema, "strict": True}}
    assert served.say('{"x":17}', response_format=wanted).choices[0].message.content == '{"x":17}'
    # What the model would rather say is not in the schema; what it says is.
    told = served.say("no", response_format=wanted, max_tokens=40, logit_bias=ENDING).choices[0]
    assert set(json.loads(told.message.content)) == {"x"}
    text = served.say('{"a": 1}', response_format={"type": "json_object"}, max_tokens=60).choices[0].message.content
    assert text.startswith("{")
    assert served.say("plain", response_format={"type": "text"}).choices[0].message.content == "plain"


def test_a_regex_and_a_lark_grammar(served) -> None:
    for syntax, definition in (("regex", "[0-9]{3}"), ("lark", "start: /[0-9]{3}/")):
        held = {"type": "grammar", "syntax": syntax, "definition": definition}
        content = served.post(URL, ask("123456", response_format=held, temperature=0)).json()["choices"][0]["message"]
        assert content["content"] == "123"


@pytest.mark.parametrize(
    ("format", "param"),
    [
        ({"type": "grammar", "syntax": "regex", "definition": "a("}, None),
        ({"type": "grammar", "syntax": "regex", "definition": "(?=a)b"}, None),
        ({"type": "grammar", "syntax": "lark", "definition": "start: nothing"}, None),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}, None),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "https://example.org/s"}}},
            "response_format.json_schema.schema",
        ),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "yaml"}, "response_format.type"),
        ("json", "response_format"),
    ],
)
def test_a_bad_grammar_is_refused(served, format: Any, param: str | None) -> None:
    """A bad grammar silently unconstrained, 200 OK (agents.md fault 4, llama.cpp#19051)."""
    for stream in (False, True):
        error = served.refused(URL, ask(response_format=format, stream=stream))
        if param is not None:
            assert error["param"] == param


# --- tools ------------------------------------------------------------------------------------------------------------


def test_a_call(served) -> None:
    choice = served.say(PARIS, tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_text_before_calls_and_calls_in_parallel(served) -> None:
    """Parallel calls sharing an index merge (agents.md fault 1, smolagents PR 1958): they stay two."""
    said = f"Let me look.\n{PARIS}\n{ROME}"
    message = served.say(said, tools=[WEATHER, CLOCK]).choices[0].message
    assert message.content == "Let me look."
    assert [json.loads(call.function.arguments)["city"] for call in message.tool_calls] == ["Paris", "Rome"]
    deltas = [chunk.choices[0].delta for chunk in streamed(served, said, tools=[WEATHER, CLOCK])]
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert "".join(delta.content or "" for delta in deltas) == "Let me look."
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Paris", "Rome"]


def test_plain_text_though_there_are_tools(served) -> None:
    choice = served.say("No <tool, thanks.", tools=[WEATHER]).choices[0]
    assert (choice.message.content, choice.finish_reason, choice.message.tool_calls) == (
        "No <tool, thanks.",
        "stop",
        None,
    )


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_must_be(served, choice: Any) -> None:
    told = served.say("nothing to do", tools=[CLOCK, WEATHER], tool_choice=choice, max_tokens=400, logit_bias=ENDING)
    assert told.choices[0].finish_reason == "tool_calls"
    [call, *_] = told.choices[0].message.tool_calls
    if isinstance(choice, dict):
        assert call.function.name == "get_weather"
        assert len(told.choices[0].message.tool_calls) == 1
        assert set(json.loads(call.function.arguments)) == {"city"}


def test_no_tool_may_be_called(served) -> None:
    told = served.say(PARIS, tools=[WEATHER], tool_choice="none").choices[0]
    assert told.message.tool_calls is None
    assert told.message.content == PARIS
    assert "get_weather" not in served.model.prompts[-1].split("user\n")[0]


def test_one_call_where_parallel_calls_are_off(served) -> None:
    told = served.say(f"{PARIS}\n{ROME}", tools=[WEATHER], parallel_tool_calls=False).choices[0]
    assert len(told.message.tool_calls) == 1
    assert told.finish_reason == "tool_calls"


def test_arguments_satisfy_their_schema(served) -> None:
    """The model would write another key, or no end; the grammar does not let it."""
    wrong = PARIS.replace("city", "town")
    told = served.say(wrong, tools=[WEATHER], max_tokens=400, logit_bias=ENDING).choices[0]
    assert told.finish_reason == "tool_calls"
    for call in told.message.tool_calls:
        assert set(json.loads(call.function.arguments)) == {"city"}
    assert "town" not in str(told.message)


def test_an_odd_schema_does_not_break_the_other_tools(served) -> None:
    """One odd schema breaks every tool (agents.md fault 6, llama.cpp#25923)."""
    long = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 10_000}}}
    tools = [{"type": "function", "function": {"name": "long", "parameters": long}}, CLOCK, WEATHER]
    assert len(served.say(PARIS, tools=tools).choices[0].message.tool_calls) == 1


def test_a_bad_schema_is_named(served) -> None:
    bad = {"type": "function", "function": {"name": "bad", "parameters": {"properties": {"x": {"$ref": "#/nowhere"}}}}}
    error = served.refused(URL, ask(tools=[WEATHER, bad]))
    assert error["param"] == "tools[1].function.parameters"
    assert "nowhere" in error["message"]


def test_a_model_without_tools_in_its_template_is_told_in_the_system_message(served) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}},
            {"id": "b", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}},
        ]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "tool", "tool_call_id": "b", "content": "sun"},
        {"role": "user", "content": "thanks"},
    ]  # fmt: skip
    answer = served.openai.chat.completions.create(model="echo", messages=messages, tools=[WEATHER], temperature=0)
    assert answer.choices[0].message.content == "thanks"
    prompt = served.model.prompts[-1]
    assert prompt.startswith("system\nBe kind.\n\n")
    assert '"name": "get_weather"' in prompt
    assert prompt.count("<tool_response>") == 2
    assert "rain\n</tool_response>\n<tool_response>\nsun" in prompt  # one turn, as in Qwen's own template
    assert PARIS.replace('"city":"', '"city": "') in prompt


def test_a_model_with_its_own_notation_is_told_by_its_template(serving, echo) -> None:
    template = (
        "{% if tools %}{{ '<|im_start|>system\\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
        '{{ \'{"name": ..., "parameters": ...}<|im_end|>\\n\' }}{% endif %}'
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
        "{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments.city }}{% endfor %}"
        "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    served = serving(echo(template))
    said = '{"name": "get_weather", "parameters": {"city":"Oslo"}}'
    choice = served.say(said, tools=[WEATHER]).choices[0]
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [{"city": "Oslo"}]
    assert '"description"' in served.model.prompts[-1].split("user\n")[0]
    assert served.say("Hello", tools=[WEATHER]).choices[0].message.content == "Hello"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": 100}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": {}}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"seed": "1"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_cost": True}}, "stream_options.include_cost"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": []}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "mood": "sad"}]}, "messages[0].mood"),
        ({"model": 3}, "model"),
        ({"model": None}, "model"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": NAMED}, "tool_choice.function.name"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(served, more: dict[str, Any], param: str) -> None:
    error = served.refused(URL, ask() | more)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param.split(".")[-1].split("[")[0] in error["message"] or param == "n"


def test_a_token_outside_the_vocabulary(served) -> None:
    assert "999" in served.refused(URL, ask(logit_bias={"999": 1}))["message"]


def test_more_messages_than_the_context_has_tokens(served) -> None:
    messages = [{"role": "user", "content": ""}] * 5000
    error = served.refused(URL, ask() | {"messages": messages})
    assert error["code"] == "context_length_exceeded"
    assert "5000 messages" in error["message"]


def test_fields_that_clients_send_harmlessly(served) -> None:
    told = served.say("ok", user="me", metadata={"a": "b"}, store=True, service_tier="auto", extra_body={"top_k": 3})
    assert told.choices[0].message.content == "ok"


def test_an_unknown_model_is_not_found(served) -> None:
    with pytest.raises(openai.NotFoundError) as told:
        served.openai.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
    assert told.value.code == "model_not_found"


def test_a_prompt_over_the_context_names_both_numbers(served) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as told:
            served.say("x" * 5000, stream=stream)
        assert told.value.code == "context_length_exceeded"
        assert "4096" in told.value.message
        assert "50" in told.value.message


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(
        ["messages", "tools", "tool_choice", "response_format", "stop", "logit_bias", "n", "stream_options"]
    ),
)
def test_no_value_is_a_server_error(served, value: Any, name: str) -> None:
    """Whatever stands in a field, it is served or refused with a 4xx in OpenAI's shape."""
    body = json.dumps(ask(max_tokens=1) | {name: value})
    response = served.http.post(URL, content=body.encode("utf-8", "surrogatepass"))
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_an_adapter_is_a_model(adapted) -> None:
    messages = [{"role": "user", "content": "Ahoy"}]
    expected = {
        name: "".join(p.text for p in adapted.service.engine.submit(messages, Sampling(max_tokens=9), adapter=name))
        for name in ("pirate", "poet", None)
    }
    assert len(set(expected.values())) == 3
    for name, text in expected.items():
        more = {"model": name or "tiny", "messages": messages, "max_tokens": 9, "temperature": 0}
        answer = adapted.openai.chat.completions.create(**more)
        assert (answer.model, answer.choices[0].message.content) == (name or "tiny", text)
        chunks = list(adapted.openai.chat.completions.create(**more, stream=True))
        assert {chunk.model for chunk in chunks} == {name or "tiny"}
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    error = adapted.refused(URL, {"model": "bard", "messages": messages}, status=404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_a_schema_holds_with_an_adapter(adapted) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    answer = adapted.openai.chat.completions.create(
        model="pirate",
        messages=[{"role": "user", "content": "Ahoy"}],
        response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
        max_tokens=200,
        temperature=0,
        logit_bias={str(ord(blank)): -100 for blank in " \n\t\r"},
    )
    assert json.loads(answer.choices[0].message.content)["n"] in (1, 2)
