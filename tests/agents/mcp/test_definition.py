"""Tests of `modelworks.agents.mcp.definition`: what is made of what a server says."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.arguments import ArgumentError, checked
from modelworks.agents.mcp.definition import (
    check_server_name,
    digest,
    effects,
    shown_schema,
    tool_name,
    visible,
)
from modelworks.agents.tool import Tool
from modelworks.core.errors import ConfigError

SERVERS = st.from_regex(r"[a-z][a-z0-9-]{0,23}", fullmatch=True)


@given(SERVERS, SERVERS, st.text(min_size=1), st.text(min_size=1))
def test_no_server_can_take_the_name_of_anothers_tool(one: str, other: str, a: str, b: str) -> None:
    names = tool_name(one, a), tool_name(other, b)
    assert (names[0] == names[1]) == ((one, a) == (other, b))
    for name in names:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name)  # what OpenAI's API takes
        Tool(name, "", {"type": "object"}, run=print, effects=frozenset())


def test_ordinary_names_stay_readable() -> None:
    assert tool_name("files", "read_file") == "files_read_file"
    assert tool_name("files", "read/file").startswith("files_read_file-")
    for name in ("", "A", "a_b", "1a", "a" * 25, "a b", "a.b"):
        with pytest.raises(ConfigError):
            check_server_name(name)


def test_a_digest_is_of_all_that_is_told() -> None:
    told: dict[str, Any] = {
        "name": "a",
        "description": "b",
        "inputSchema": {"type": "object", "properties": {"x": {"type": "string", "description": "c"}}},
        "annotations": {"readOnlyHint": True},
    }
    same = {"inputSchema": told["inputSchema"], "annotations": told["annotations"], "description": "b", "name": "a"}
    assert digest(told) == digest(same) == digest(told | {"_meta": {"time": 1}})
    deeper = {"type": "object", "properties": {"x": {"type": "string", "description": "c "}}}
    for changed in (
        told | {"description": "b\u200b"},
        told | {"inputSchema": deeper},
        told | {"annotations": {"readOnlyHint": False}},
        told | {"outputSchema": {}},
        told | {"title": "x"},
    ):
        assert digest(changed) != digest(told)


@pytest.mark.parametrize(
    ("configured", "annotations", "found"),
    [
        (("writes",), {"readOnlyHint": True, "destructiveHint": False}, {"writes"}),
        ((), {"destructiveHint": True}, {"writes"}),
        ((), {"destructiveHint": True, "readOnlyHint": True}, set()),
        (("reads",), {"openWorldHint": True}, {"reads", "network"}),
        (("network",), {"openWorldHint": False}, {"network"}),
        (("reads",), {"destructiveHint": "yes", "openWorldHint": 1}, {"reads"}),
    ],
)
def test_hints_only_raise(configured: Any, annotations: Any, found: Any) -> None:
    assert effects(configured, annotations) == found


@given(st.text())
def test_nothing_in_a_shown_text_is_without_a_glyph(text: str) -> None:
    shown = visible(text, 10**6)
    assert all(char in "\n " or unicodedata.category(char)[0] not in "CZ" for char in shown)
    assert shown == text or "\\u{" in shown


@pytest.mark.parametrize(
    "hidden",
    ["\x1b[31m", "\r", "\u200b", "\u202e", "\U000e0041", "\ufe0f", "\U000e0100", "\u2028", "\ue000", "\xad", "\x00"],
)
def test_each_kind_of_hiding_is_shown(hidden: str) -> None:
    assert visible(f"a{hidden}b") == f"a\\u{{{ord(hidden[0]):x}}}{hidden[1:]}b"


def test_long_and_ordinary_texts() -> None:
    assert visible("Grüße,\n日本 😀") == "Grüße,\n日本 😀"
    assert visible("x" * 2500).endswith("x... [500 more characters]")


def test_descriptions_in_a_schema_are_shown_and_what_it_means_is_kept() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {
            "description": {"type": "string", "description": "a\u200b", "enum": ["x\u200b"]},
            "items": {"type": "array", "items": {"title": "\u200b", "$ref": "#/$defs/title"}},
        },
        "$defs": {"title": {"type": "integer", "default": 3}},
    }
    shown = shown_schema(schema)
    assert shown["type"] == "object"
    assert shown["properties"]["description"]["description"] == r"a\u{200b}"
    assert shown["properties"]["description"]["enum"] == ["x\u200b"]
    assert checked(shown, {"items": [1]}) == {"items": [1]}
    with pytest.raises(ArgumentError):
        checked(shown, {"items": ["x"]})


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {"type": "string"},
        {"properties": {"a": {"type": "nothing"}}},
        {"properties": {"a": {"$ref": "http://169.254.169.254/latest"}}},
        {"properties": {"a": {"allOf": [{"$ref": "other.json"}]}}},
        {"properties": {"a\u200b": {"type": "string"}}},
        {"required": "a"},
    ],
)
def test_a_schema_that_is_none_is_refused(schema: Any) -> None:
    with pytest.raises(ConfigError):
        shown_schema(schema)
