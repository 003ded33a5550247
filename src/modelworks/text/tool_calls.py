"""Tool calls in what a model writes, told from its text while both stream.

Two notations cover the models that are in use:
* "hermes": `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` anywhere in the text (NousResearch Hermes, Qwen).
* "json": an answer that is nothing but such an object, several of them, or a list of them, with `parameters` in place
  of `arguments` in Llama 3's case.

A call is given out once it is whole; each is its own, whatever its neighbours are called. What turns out to be no call
is text, down to its last character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from modelworks.text.tokenizer import Tokenizer

Notation: TypeAlias = Literal["hermes", "json"]

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"
_INSTRUCTIONS: Final = """\
You can call these functions; each line is one, as a JSON schema:
{schemas}
To call one, write its name and arguments as JSON between tags, and nothing else:
{open}
{{"name": "the function's name", "arguments": {{}}}}
{close}
Several calls follow each other. If no function helps, answer in plain words."""
_SPACE: Final = " \t\r\n"
_TOOLS: Final = re.compile(r"\{[{%](?:(?![%}]\}).)*\btools\b", re.DOTALL)  # the variable, not the word in a text


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str


def native_notation(tokenizer: Tokenizer) -> Notation | None:
    """How a model was taught to call tools, as its chat template tells; None where the template knows no tools."""
    template = tokenizer.chat_template
    if template is None or not _TOOLS.search(template):
        return None
    return "hermes" if OPEN in template else "json"


def told_in_text(messages: Sequence[Mapping[str, Any]], functions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages for a chat template that knows no tools, in the "hermes" notation.

    The functions (`name`, `description`, `parameters`) are told in the system message. Calls and their results are
    text; results that follow each other are one turn.
    """
    plain: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            result = f"<tool_response>\n{_text(message['content'])}\n</tool_response>"
            if plain and plain[-1].get("results"):
                plain[-1]["content"] += f"\n{result}"
            else:
                plain.append({"role": "user", "content": result, "results": True})
        elif message.get("tool_calls"):
            called = [_written(call["function"]) for call in message["tool_calls"]]
            content = "\n".join(filter(None, [_text(message.get("content")), *called]))
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            plain.append(rest | {"content": content})
        else:
            plain.append(dict(message))
    plain = [{key: value for key, value in message.items() if key != "results"} for message in plain]
    if functions:
        schemas = "\n".join(json.dumps(each, ensure_ascii=False) for each in functions)
        said = _INSTRUCTIONS.format(schemas=schemas, open=OPEN, close=CLOSE)
        if plain and plain[0]["role"] in ("system", "developer"):
            plain[0] = {**plain[0], "content": f"{_text(plain[0]['content'])}\n\n{said}"}
        else:
            plain.insert(0, {"role": "system", "content": said})
    return plain


def _text(content: Any) -> str:
    """A message's content, which may come in parts."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def _written(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments", {})
    called = {"name": function["name"], "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}
    return f"{OPEN}\n{json.dumps(called, ensure_ascii=False)}\n{CLOSE}"


class ToolCallParser:
    """Splits streamed text into text and calls; how it is cut into pieces makes no difference.

    Only calls of functions in `names` are calls. Space between text and calls belongs to neither.
    """

    def __init__(self, notation: Notation, names: Collection[str]) -> None:
        self._names = names
        self._hermes = notation == "hermes"
        self._marks = (CLOSE,) if self._hermes else (";", ",")  # what may stand behind a call
        self._held = ""  # not given out yet
        self._value: _Value | None = None  # set while `_held` begins with what may be a call
        self._closing = False  # a call ended, and its mark may follow
        self._after_call = False  # no text since
        self._texted = False

    def push(self, text: str) -> list[str | ToolCall]:
        """What became certain with a piece of text."""
        self._held += text
        found: list[str | ToolCall] = []
        while (step := self._step()) is not None:
            found += step
        return found

    def flush(self) -> list[str | ToolCall]:
        """The rest, once nothing can follow: half a call is text."""
        held, self._held, self._value = self._held, "", None
        if self._closing and any(mark.startswith(held.strip()) for mark in self._marks):
            return []
        return self._text(held)

    def _step(self) -> list[str | ToolCall] | None:
        """One decision about the beginning of what is held; None where it takes more text."""
        if self._value is not None:
            return self._read_call(self._value)
        if self._closing:
            return self._skip_mark()
        return self._find_open() if self._hermes else self._find_json()

    def _find_open(self) -> list[str | ToolCall] | None:
        at = self._held.find(OPEN)
        known = at if at >= 0 else len(self._held) - _begun(self._held, OPEN)
        shown = len(self._held[:known].rstrip(_SPACE))  # the space before a call goes with it
        text, self._held = self._held[:shown], self._held[shown:]
        if at >= 0:
            self._value = _Value(at - shown + len(OPEN))
        elif not text:
            return None
        return self._text(text)

    def _find_json(self) -> list[str | ToolCall] | None:
        if not self._texted:
            rest = self._held.lstrip(_SPACE)
            if not rest:
                return None
            if rest[0] in "{[":
                self._value = _Value(len(self._held) - len(rest))
                return []
        text, self._held = self._held, ""
        return self._text(text) or None

    def _text(self, text: str) -> list[str | ToolCall]:
        text = text.lstrip(_SPACE) if self._after_call else text
        if not text:
            return []
        self._after_call, self._texted = False, True
        return [text]

    def _read_call(self, value: _Value) -> list[str | ToolCall] | None:
        begin = value.begin
        end = value.scan(self._held)
        if end is None:
            return None
        self._value = None
        calls = _calls(self._held[begin:end], self._names) if end else []
        if not calls:  # its beginning is text after all; what follows may still hold a call
            cut = begin if self._hermes else len(self._held)
            text, self._held = self._held[:cut], self._held[cut:]
            return self._text(text)
        self._held = self._held[end:]
        self._closing = self._after_call = True
        return list(calls)

    def _skip_mark(self) -> list[str | ToolCall] | None:
        rest = self._held.lstrip(_SPACE)
        if any(mark.startswith(rest) and mark != rest for mark in self._marks):
            return None
        self._closing = False
        self._held = rest.removeprefix(next(filter(rest.startswith, self._marks), ""))
        return []


class _Value:
    """Finds the end of a JSON object or list that begins at `begin`, or after space there."""

    def __init__(self, begin: int) -> None:
        self.begin = self._at = begin
        self._depth = 0
        self._quoted = self._escaped = False

    def scan(self, text: str) -> int | None:
        """Where the value ends; 0 where there is none; None where it goes on beyond the text."""
        for at in range(self._at, len(text)):
            char = text[at]
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._quoted = False
            elif char in "{[":
                self._depth += 1
            elif self._depth == 0:
                if char not in _SPACE:
                    return 0
            elif char == '"':
                self._quoted = True
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1
        self._at = len(text)
        return None


def _calls(text: str, names: Collection[str]) -> list[ToolCall]:
    """The calls that a JSON text states; none where any part of it is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = [_call(item, names) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call is not None] if None not in calls else []


def _call(value: Any, names: Collection[str]) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value["name"] not in names:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):  # some models write the object as a string
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return None
    if arguments is None:
        arguments = {}
    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def _begun(text: str, tag: str) -> int:
    """How many of a tag's first characters the text ends with."""
    longest = min(len(text), len(tag) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(tag[:size])), 0)
