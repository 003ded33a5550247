"""Tools of a request: what it offers and asks of them, read and checked; grammars are the engine's (`tool_grammar`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from modelworks.engine.grammar import Grammar
from modelworks.engine.tool_grammar import CHOICES, Offer
from modelworks.serve.errors import ApiError
from modelworks.serve.fields import Fields, Item, Read
from modelworks.text.tokenizer import Tokenizer

Message = dict[str, Any]

MOST_TOOLS: Final = 128
_MOST_TOOL_CHARACTERS: Final = 262_144


class Tools(Offer):
    """The functions of a request and what it asks of them; what cannot be is refused in the API's form."""

    __slots__ = ()

    def grammar(self, tokenizer: Tokenizer, answer: Grammar | None = None) -> Grammar | None:
        if self.offered and answer is not None and answer.kind != "json_schema":
            raise ApiError(
                400,
                "response_format: a grammar of your own and tools cannot be combined; state one of them",
                param="response_format",
                code="unsupported_parameter",
            )
        return super().grammar(tokenizer, answer)


NO_TOOLS: Final = Tools(())


def read_tools(fields: Fields, *, nested: bool) -> Tools:
    """`tools`, `tool_choice`, `parallel_tool_calls`; `nested`: a function stands in a field of that name, as in chat.

    Raises `ApiError` where a tool is malformed, its schema invalid, or the choice names no tool.
    """

    def read(tool: Fields) -> Mapping[str, Any]:
        tool.needed_choice("type", ("function",), code="unsupported_parameter")
        return _of_function(tool, _read_function, nested=nested)

    functions = tuple(fields.objects("tools", read, most=MOST_TOOLS))
    names = [each["name"] for each in functions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ApiError(400, f"tools: two are called {twice!r}", param="tools", code="invalid_value")
    if len(json.dumps(functions)) > _MOST_TOOL_CHARACTERS:
        raise ApiError(400, f"tools: more than {_MOST_TOOL_CHARACTERS} characters", param="tools", code="invalid_value")
    choice = _read_choice(fields, names, nested=nested)
    return Tools(functions, choice, fields.flag("parallel_tool_calls", default=True))


def _of_function(fields: Fields, read: Read[Item], *, nested: bool) -> Item:
    """What `read` makes of what describes a function: a field of that name where `nested`, or the fields themselves."""
    found = fields.needed_object("function", read) if nested else read(fields)
    fields.close()
    return found


def _read_function(function: Fields) -> dict[str, Any]:
    name = function.needed_text("name", pattern="[A-Za-z0-9_.-]{1,64}")
    function.expect(name not in CHOICES, "name", "a name that is no choice's")
    parameters = function.mapping("parameters") or {"type": "object", "properties": {}}
    is_object = parameters.get("type", "object") == "object"
    function.expect(is_object, "parameters", "a schema of type 'object'", code="invalid_schema")
    parameters = {"type": "object", **parameters}
    function.made("parameters", lambda: Grammar.json_schema(parameters), code="invalid_schema")
    function.flag("strict")  # arguments always satisfy their schema here
    described = {"name": name, "description": function.text("description", ""), "parameters": parameters}
    function.close()
    return described


def _read_choice(fields: Fields, names: Sequence[str], *, nested: bool) -> str:
    def read_name(function: Fields) -> str:
        name = function.needed_text("name")
        function.expect(name in names, "name", "the name of one of the tools")
        function.close()
        return name

    def read(named: Fields) -> str:
        named.needed_choice("type", ("function",), code="unsupported_parameter")
        return _of_function(named, read_name, nested=nested)

    chosen = fields.choice_or_object("tool_choice", CHOICES, read)
    fields.expect(chosen != "required" or bool(names), "tool_choice", "tools to choose from")
    return chosen or ("auto" if names else "none")
