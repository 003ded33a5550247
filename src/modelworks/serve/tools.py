"""Tools: what a request offers, how the model is told, and the grammar that holds its calls to the schemas.

A model whose chat template knows tools is told through it, and calls in its own notation. To any other the schemas are
told in the system message, its past calls as text, and it calls in the "hermes" notation. In both cases a grammar
allows what `tool_choice` allows: text, calls with arguments that satisfy their schema, or both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelworks.engine.grammar import Grammar
from modelworks.serve.errors import ApiError
from modelworks.serve.fields import Fields, Item, Read
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import CLOSE, OPEN, Notation, ToolCallParser, native_notation, told_in_text

Message = dict[str, Any]

MOST_TOOLS: Final = 128
_MOST_TOOL_CHARACTERS: Final = 262_144
_MOST_CALLS: Final = 16  # in one answer; a small model that has to call might never stop
_CHOICES: Final = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions of a request and what it asks of them."""

    functions: tuple[Mapping[str, Any], ...]
    """Each with `name`, `description` and `parameters`, a JSON schema."""
    choice: str = "auto"
    """"none", "auto", "required", or the name of the one function to be called."""
    parallel: bool = True

    @property
    def offered(self) -> tuple[Mapping[str, Any], ...]:
        """The functions that may be called."""
        if self.choice == "none":
            return ()
        return tuple(each for each in self.functions if self.choice in ("auto", "required", each["name"]))

    def parser(self, tokenizer: Tokenizer) -> ToolCallParser | None:
        """What tells calls from text in an answer; None where there can be no calls."""
        if not self.offered:
            return None
        return ToolCallParser(_notation(tokenizer), {each["name"] for each in self.offered})

    def grammar(self, tokenizer: Tokenizer, answer: Grammar | None) -> Grammar | None:
        """What the answer is held to; `answer` is what its text must be, anything where None."""
        if not self.offered:
            return answer
        if answer is not None and answer.kind != "json_schema":
            raise ApiError(
                400,
                "response_format: a grammar of your own and tools cannot be combined; state one of them",
                param="response_format",
                code="unsupported_parameter",
            )
        rules = _hermes(self, answer) if _notation(tokenizer) == "hermes" else _plain(self, answer, tokenizer)
        return Grammar.lark(rules)

    def told(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[Message], list[Any] | None]:
        """The messages, and the tools for the chat template; what the template cannot say is said in the messages."""
        tools = [{"type": "function", "function": dict(each)} for each in self.functions]
        if native_notation(tokenizer) is not None:
            return list(messages), tools if self.choice != "none" else None
        return told_in_text(messages, self.offered), None


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
    function.expect(name not in _CHOICES, "name", "a name that is no choice's")
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

    chosen = fields.choice_or_object("tool_choice", _CHOICES, read)
    fields.expect(chosen != "required" or bool(names), "tool_choice", "tools to choose from")
    return chosen or ("auto" if names else "none")


# --- what the model is told -------------------------------------------------------------------------------------------


def _notation(tokenizer: Tokenizer) -> Notation:
    return native_notation(tokenizer) or "hermes"


# --- grammars, in llguidance's Lark -----------------------------------------------------------------------------------


def _hermes(tools: Tools, answer: Grammar | None) -> str:
    """Calls in tags. Free text may come first; its lexeme is lazy, so the first call's tag ends it."""
    rules = [f'body: "\\n" {_one_of(tools)} "\\n{CLOSE}"', *_functions(tools, "arguments")]
    start, first = "calls", f'"{OPEN}"'
    if tools.choice == "auto" and answer is None:
        start, first = "text | calls", "head"
        rules += ["text: TEXT", f'head[lazy]: TEXT "{OPEN}"', r"TEXT: /(.|\n)*/"]
    elif tools.choice == "auto" and answer is not None:
        start = "answer | calls"
        rules.append(f"answer: %json {answer.source}")
    calls = f"{first} body" + _further(tools, f'"\\n{OPEN}" body')
    return "\n".join([f"start: {start}", f"calls: {calls}", *rules])


def _plain(tools: Tools, answer: Grammar | None, tokenizer: Tokenizer) -> str:
    """Either calls or, where it may be, text that does not begin as a call does."""
    key = "parameters" if '"parameters"' in (tokenizer.chat_template or "") else "arguments"
    rules = _functions(tools, key)
    start = "calls"
    if tools.choice == "auto" and answer is None:
        start = "text | calls"
        rules.append(r"text: /([^{\[ \t\r\n](.|\n)*)?/")
    elif tools.choice == "auto" and answer is not None:
        start = "answer | calls"
        rules.append(f"answer: %json {answer.source}")
    one = _one_of(tools)
    calls = one + _further(tools, f'"; " {one}')
    return "\n".join([f"start: {start}", f"calls: {calls}", *rules])


def _further(tools: Tools, call: str) -> str:
    """The calls that may follow the first; a named function is called once."""
    return f" ({call}){{0,{_MOST_CALLS - 1}}}" if tools.parallel and tools.choice in _CHOICES else ""


def _one_of(tools: Tools) -> str:
    return "(" + " | ".join(f"call_{index}" for index in range(len(tools.offered))) + ")"


def _functions(tools: Tools, key: str) -> list[str]:
    """A rule for each function; its schema is a root of its own, so that its references hold."""
    rules = []
    for index, function in enumerate(tools.offered):
        head = f'{{"name": {json.dumps(function["name"])}, "{key}": '
        rules.append(f'call_{index}: {json.dumps(head)} %json {json.dumps(function["parameters"])} "}}"')
    return rules
