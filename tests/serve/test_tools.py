"""The grammars of tool calls, against the parser that reads them back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from modelworks.engine.grammar import Grammar
from modelworks.serve.errors import ApiError
from modelworks.serve.fields import Fields
from modelworks.serve.tools import Tools, read_tools
from modelworks.text.tokenizer import Tokenizer

REFERRING = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string"}},
}
FUNCTIONS = (
    {"name": "weather", "description": "", "parameters": REFERRING},
    {
        "name": "clock",
        "description": "",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
)
PARIS = '{"name": "weather", "arguments": {"city":"Paris"}}'
NOW = '{"name": "clock", "arguments": {}}'
ANSWER = Grammar.json_schema(
    {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False}
)


def tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


@pytest.fixture(scope="module")
def takes():
    """Whether a grammar takes a text whole."""
    vocabulary = LLTokenizer("byte")

    def takes_(grammar: Grammar, text: str) -> bool:
        matcher = LLMatcher(vocabulary, grammar.compiled())
        assert not matcher.get_error()
        data = list(text.encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()

    return takes_


@pytest.mark.parametrize(
    ("choice", "answer", "taken", "refused"),
    [
        (
            "auto",
            None,
            ["", "Hello", '{"x":1}', "<tool_cal", tagged(PARIS), f"So:\n{tagged(NOW)}", tagged(PARIS, NOW, PARIS)],
            ["<tool_call>", "<tool_call>\nhi", tagged(PARIS.replace("city", "c")), tagged(NOW.replace("clock", "x"))],
        ),
        ("auto", ANSWER, ['{"x":1}', tagged(PARIS)], ["Hello", "", f"So:{tagged(NOW)}"]),
        ("required", None, [tagged(PARIS), tagged(NOW, NOW)], ["", "Hello", f"So:\n{tagged(NOW)}"]),
        ("required", ANSWER, [tagged(PARIS)], ['{"x":1}']),
        ("clock", None, [tagged(NOW)], ["Hello", tagged(PARIS), tagged(NOW, NOW)]),
    ],
)  # fmt: skip
def test_calls_in_tags(
    bytewise: Tokenizer, takes, choice: str, answer: Grammar | None, taken: list[str], refused: list[str]
) -> None:
    grammar = Tools(FUNCTIONS, choice).grammar(bytewise, answer)
    assert [text for text in taken if not takes(grammar, text)] == []
    assert [text for text in refused if takes(grammar, text)] == []


def test_plain_calls(bytewise: Tokenizer, takes) -> None:
    bytewise.chat_template = '{% if tools %}{"name": ..., "parameters": ...}{% endif %}'
    grammar = Tools(FUNCTIONS).grammar(bytewise, None)
    paris, now = (call.replace("arguments", "parameters") for call in (PARIS, NOW))
    assert all(takes(grammar, text) for text in ("", "Hello {", paris, f"{paris}; {now}"))
    assert not any(takes(grammar, text) for text in (" {", "{}", "[1]", PARIS, f"{now} Hello"))
    must = Tools(FUNCTIONS, "required", parallel=False).grammar(bytewise, None)
    assert takes(must, now)
    assert not any(takes(must, text) for text in ("Hello", f"{now}; {now}"))


def test_a_grammar_of_ones_own_and_tools_do_not_go_together(bytewise: Tokenizer) -> None:
    with pytest.raises(ApiError, match="cannot be combined"):
        Tools(FUNCTIONS).grammar(bytewise, Grammar.regex("a"))
    assert Tools(FUNCTIONS, "none").grammar(bytewise, Grammar.regex("a")) == Grammar.regex("a")


def test_both_forms_of_a_tool_are_read_alike() -> None:
    function = {"name": "f", "description": "d", "parameters": REFERRING, "strict": True}
    nested = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    flat = {"tools": [{"type": "function", **function}], "tool_choice": "required"}
    tools = read_tools(Fields(nested), nested=True)
    assert tools == read_tools(Fields(flat), nested=False)
    assert tools.offered == ({"name": "f", "description": "d", "parameters": REFERRING},)


def test_tools_as_large_as_a_book_are_refused() -> None:
    described: dict[str, Any] = {"name": "f", "description": "x" * 300_000}
    with pytest.raises(ApiError, match="characters"):
        read_tools(Fields({"tools": [{"type": "function", "function": described}]}), nested=True)


def test_past_calls_and_results_become_text(bytewise: Tokenizer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    told, native = Tools(FUNCTIONS).told(bytewise, messages)
    assert native is None
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert told[2]["content"] == tagged(NOW)
    assert told[3] == {"role": "user", "content": "<tool_response>\nnoon\n</tool_response>"}
    assert all(json.dumps(each) in told[0]["content"] for each in FUNCTIONS)
    without, _ = Tools(FUNCTIONS, "none").told(bytewise, messages)
    assert without == told[1:]
