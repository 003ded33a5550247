"""Functions that a model may call: how it is told of them, and the grammar that holds its calls to their schemas.

A model whose chat template knows tools is told through it, and calls in its own notation. To any other the schemas are
told in the system message, its past calls as text, and it calls in the "hermes" notation. In both cases a grammar
allows what is to be allowed: text, calls with arguments that satisfy their schema, or both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelworks.core.errors import ConfigError
from modelworks.engine.grammar import Grammar
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import CLOSE, OPEN, Notation, ToolCallParser, native_notation, told_in_text

CHOICES: Final = ("none", "auto", "required")
_MOST_CALLS: Final = 16  # in one answer; a small model that has to call might never stop


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions that a model is offered, and what it may do with them."""

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

    def grammar(self, tokenizer: Tokenizer, answer: Grammar | None = None) -> Grammar | None:
        """What the answer is held to; `answer` is what its text must be, anything where None.

        Raises `ConfigError` for an `answer` that is no JSON schema, beside functions that may be called.
        """
        if not self.offered:
            return answer
        if answer is not None and answer.kind != "json_schema":
            raise ConfigError("a grammar of your own and tools cannot be combined; state one of them")
        rules = _hermes(self, answer) if _notation(tokenizer) == "hermes" else _plain(self, answer, tokenizer)
        return Grammar.lark(rules)

    def told(
        self, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """The messages, and the tools for the chat template; what the template cannot say is said in the messages."""
        tools = [{"type": "function", "function": dict(each)} for each in self.functions]
        if native_notation(tokenizer) is not None:
            return [dict(message) for message in messages], tools if self.choice != "none" else None
        return told_in_text(messages, self.offered), None


def call_form(tokenizer: Tokenizer, name: str) -> tuple[str, str]:
    """What a model writes before and after the arguments of one call, in its own notation; the next follows at once."""
    if _notation(tokenizer) == "hermes":
        return f'{OPEN}\n{{"name": {json.dumps(name)}, "arguments": ', f"}}\n{CLOSE}\n"
    return f'{{"name": {json.dumps(name)}, "{_key(tokenizer)}": ', "}; "


def _notation(tokenizer: Tokenizer) -> Notation:
    return native_notation(tokenizer) or "hermes"


def _key(tokenizer: Tokenizer) -> str:
    return "parameters" if '"parameters"' in (tokenizer.chat_template or "") else "arguments"


# --- grammars, in llguidance's Lark -----------------------------------------------------------------------------------


def _hermes(offer: Offer, answer: Grammar | None) -> str:
    """Calls in tags. Free text may come first; its lexeme is lazy, so the first call's tag ends it."""
    rules = [f'body: "\\n" {_one_of(offer)} "\\n{CLOSE}"', *_functions(offer, "arguments")]
    start, first = "calls", f'"{OPEN}"'
    if offer.choice == "auto" and answer is None:
        start, first = "text | calls", "head"
        rules += ["text: TEXT", f'head[lazy]: TEXT "{OPEN}"', r"TEXT: /(.|\n)*/"]
    elif offer.choice == "auto" and answer is not None:
        start = "answer | calls"
        rules.append(f"answer: %json {answer.source}")
    calls = f"{first} body" + _further(offer, f'"\\n{OPEN}" body')
    return "\n".join([f"start: {start}", f"calls: {calls}", *rules])


def _plain(offer: Offer, answer: Grammar | None, tokenizer: Tokenizer) -> str:
    """Either calls or, where it may be, text that does not begin as a call does."""
    rules = _functions(offer, _key(tokenizer))
    start = "calls"
    if offer.choice == "auto" and answer is None:
        start = "text | calls"
        rules.append(r"text: /([^{\[ \t\r\n](.|\n)*)?/")
    elif offer.choice == "auto" and answer is not None:
        start = "answer | calls"
        rules.append(f"answer: %json {answer.source}")
    one = _one_of(offer)
    calls = one + _further(offer, f'"; " {one}')
    return "\n".join([f"start: {start}", f"calls: {calls}", *rules])


def _further(offer: Offer, call: str) -> str:
    """The calls that may follow the first; a named function is called once."""
    return f" ({call}){{0,{_MOST_CALLS - 1}}}" if offer.parallel and offer.choice in CHOICES else ""


def _one_of(offer: Offer) -> str:
    return "(" + " | ".join(f"call_{index}" for index in range(len(offer.offered))) + ")"


def _functions(offer: Offer, key: str) -> list[str]:
    """A rule for each function; its schema is a root of its own, so that its references hold."""
    rules = []
    for index, function in enumerate(offer.offered):
        head = f'{{"name": {json.dumps(function["name"])}, "{key}": '
        rules.append(f'call_{index}: {json.dumps(head)} %json {json.dumps(function["parameters"])} "}}"')
    return rules
