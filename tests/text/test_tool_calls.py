"""Tool calls told from text: both notations, cut anywhere, whole or broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import ToolCall, ToolCallParser, native_notation, told_in_text

F = '{"name": "f", "arguments": {"a": 1}}'
CALL = f"<tool_call>\n{F}\n</tool_call>"
LIST = CALL.replace('{"a": 1}', "[1]")
ONE = ToolCall("f", '{"a": 1}')
EMPTY = ToolCall("g", "{}")


def parsed(notation: Any, *pieces: str, names: tuple[str, ...] = ("f", "g")) -> list[Any]:
    """What a parser gives out for pieces, with text that follows text joined."""
    parser = ToolCallParser(notation, names)
    found: list[Any] = []
    for each in [*(each for piece in pieces for each in parser.push(piece)), *parser.flush()]:
        if isinstance(each, str) and found and isinstance(found[-1], str):
            found[-1] += each
        else:
            found.append(each)
    return found


CASES = [
    ("hermes", "just text", ["just text"]),
    ("hermes", "  spaced \n", ["  spaced \n"]),
    ("hermes", CALL, [ONE]),
    ("hermes", f"Let me see.\n{CALL}", ["Let me see.", ONE]),
    ("hermes", f"{CALL}\n{CALL}\n", [ONE, ONE]),
    ("hermes", f"{CALL}{CALL}", [ONE, ONE]),
    ("hermes", f"{CALL}\n\nDone. \n", [ONE, "Done. \n"]),
    ("hermes", '<tool_call>{"name": "g"}</tool_call>', [EMPTY]),
    ("hermes", '<tool_call>{"name": "g", "arguments": "{}"}</tool_call>', [EMPTY]),
    ("hermes", f"<tool_call>{F}", [ONE]),  # the closing tag may be missing
    ("hermes", f"<tool_call>{F}</tool", [ONE]),
    ("hermes", '<tool_call>{"name": "f", "arg', ['<tool_call>{"name": "f", "arg']),  # cut short: text
    ("hermes", "a <tool_call> b", ["a <tool_call> b"]),
    ("hermes", "a < b <tool", ["a < b <tool"]),
    ("hermes", '<tool_call>{"name": "h"}</tool_call>', ['<tool_call>{"name": "h"}</tool_call>']),  # nobody's name
    ("hermes", LIST, [LIST]),  # arguments are an object
    ("hermes", f'<tool_call>{{"x"}}</tool_call> {CALL}', ['<tool_call>{"x"}</tool_call>', ONE]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>\\"}"}}</tool_call>',
     [ToolCall("f", '{"a": "</tool_call>\\"}"}')]),
    ("json", "just text", ["just text"]),
    ("json", "text {", ["text {"]),
    ("json", ' {"name": "f", "parameters": {"a": 1}}', [ONE]),
    ("json", f"{F}; {F}", [ONE, ONE]),
    ("json", f"{F}\n{F}", [ONE, ONE]),
    ("json", f'[{F}, {{"name": "g"}}]', [ONE, EMPTY]),
    ("json", '{"colour": "red"}', ['{"colour": "red"}']),
    ("json", f'[{F}, {{"name": "h"}}]', [f'[{F}, {{"name": "h"}}]']),
    ("json", "[1, 2] and more", ["[1, 2] and more"]),
    ("json", '{"name": "f"', ['{"name": "f"']),
]  # fmt: skip


@pytest.mark.parametrize(("notation", "text", "expected"), CASES)
def test_text_and_calls(notation: str, text: str, expected: list[Any]) -> None:
    assert parsed(notation, text) == expected


@pytest.mark.parametrize(("notation", "text", "expected"), CASES)
def test_how_text_is_cut_makes_no_difference(notation: str, text: str, expected: list[Any]) -> None:
    assert parsed(notation, *text) == expected
    for at in range(len(text)):
        assert parsed(notation, text[:at], text[at:]) == expected


@given(
    st.lists(st.sampled_from(["<tool_call>", "</tool_call>", F, "{", "}", '"', "\\", " ", "\n", "x", "é", ";", "["]))
)
def test_any_text_cut_anywhere(parts: list[str]) -> None:
    text = "".join(parts)
    for notation in ("hermes", "json"):
        whole = parsed(notation, text)
        assert parsed(notation, *parts) == parsed(notation, *text) == whole
        if not any(isinstance(each, ToolCall) for each in whole):
            assert "".join(whole) == text  # what is no call is text, down to its last character
        for call in whole:
            assert isinstance(call, str) or json.loads(call.arguments) == {"a": 1}


def test_parallel_calls_of_one_function_stay_two() -> None:
    """Parallel calls sharing an index merge (agents.md fault 1)."""
    other = CALL.replace("1", "2")
    assert parsed("hermes", CALL + other) == [ONE, ToolCall("f", '{"a": 2}')]


def test_text_is_given_out_as_soon_as_it_is_certain() -> None:
    parser = ToolCallParser("hermes", ["f"])
    assert parser.push("So ") == ["So"]
    assert parser.push("<") == []
    assert parser.push("b") == [" <b"]
    assert parser.push(f"\n<tool_call>{F[:9]}") == []
    assert parser.push(F[9:]) == [ONE]


@pytest.mark.parametrize(
    ("template", "notation"),
    [
        (None, None),
        ("{{ messages }}", None),
        ("You have no tools. {{ messages }} <tool_call>", None),
        ("{% if tools %}<tool_call>{% endif %}", "hermes"),
        ('{% if tools %}{"name": ..., "parameters": ...}{% endif %}', "json"),
    ],
)
def test_a_template_tells_the_notation(template: str | None, notation: str | None) -> None:
    tokenizer = Tokenizer(tokenizers.Tokenizer(models.BPE({"a": 0}, [])), chat_template=template)
    assert native_notation(tokenizer) == notation


def test_tools_are_told_in_text_where_a_template_knows_none() -> None:
    """Arguments as an object and as its JSON; what a turn counts in the loss stays with it."""
    called = {"role": "assistant", "content": "", "weight": 0.5}
    messages = [
        {"role": "user", "content": "q"},
        called | {"tool_calls": [{"function": {"name": "f", "arguments": {"x": "é"}}}]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        called | {"tool_calls": [{"function": {"name": "f", "arguments": '{"x": "é"}'}}]},
    ]
    told = told_in_text(messages, [{"name": "f"}])
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user", "assistant"]
    assert '{"name": "f"}' in told[0]["content"]
    assert told[2] == called | {"content": '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>'}
    assert told[4] == told[2]
    assert told[3]["content"] == "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    assert told_in_text(messages, [])[0] == messages[0]
    system = {"role": "system", "content": "s"}
    assert told_in_text([system, *messages], [{"name": "f"}])[0]["content"].startswith("s\n\nYou can call")
