"""How a request wants its tokens chosen: the fields that chat, completions and responses share."""

from __future__ import annotations

from typing import Any, Final

from modelworks.engine.grammar import Grammar
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.serve.fields import Fields

MOST_LOGPROBS: Final = 20
_MOST_STOPS: Final = 16
_HUGE: Final = 2**31 - 1
# What a model's authors recommend is taken where a request says nothing; OpenAI's defaults where they do not either.
_RECOMMENDED: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def defaults(model: LanguageModel) -> Sampling:
    """The sampling of a request that says nothing about it."""
    stated = model.generation_defaults
    if stated.get("do_sample") is False:
        stated = {}
    known = {name: stated[name] for name in _RECOMMENDED if stated.get(name) is not None}
    return Sampling(**{"temperature": 1.0, "max_tokens": None} | known)


def read_sampling(fields: Fields, *, max_tokens: tuple[str, ...], logprobs: int) -> dict[str, Any]:
    """The fields of `Sampling` that a request states, by name.

    `max_tokens` are the names that the answer's length goes by, of which a request may use one.
    """
    lengths = {fields.integer(name, 1, _HUGE) for name in max_tokens} - {None}
    fields.expect(len(lengths) <= 1, max_tokens[0], f"the same number as {max_tokens[-1]}")
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    biases = fields.numbers("logit_bias", "[0-9]{1,9}", -100, 100)
    stated = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": fields.integer("top_k", 0, _HUGE),
        "min_p": fields.number("min_p", 0, 1),
        "repetition_penalty": fields.number("repetition_penalty", 0.01, 100),
        "frequency_penalty": fields.number("frequency_penalty", -2, 2),
        "presence_penalty": fields.number("presence_penalty", -2, 2),
        "seed": None if seed is None else seed % 2**63,
        "max_tokens": next(iter(lengths), None),
        "stop": fields.texts("stop", _MOST_STOPS) or None,
        "logit_bias": {int(token): float(bias) for token, bias in biases.items()} or None,
        "logprobs": logprobs or None,
    }
    return {name: value for name, value in stated.items() if value is not None}


def read_format(fields: Fields, name: str, *, inline: bool) -> Grammar | None:
    """`response_format` (its schema under `json_schema`) or, with `inline`, `text.format` (its schema beside the type).

    Beyond OpenAI's kinds there is `{"type": "grammar", "syntax": "regex" or "lark", "definition": ...}`, the form that
    OpenAI's custom tools have.
    """

    def read(chosen: Fields) -> Grammar | None:
        kind = chosen.choice("type", ("text", "json_object", "json_schema", "grammar"), "text")
        grammar: Grammar | None = None
        if kind == "json_object":
            grammar = Grammar.json_schema({"type": "object"})
        elif kind == "json_schema":
            grammar = _read_schema(chosen) if inline else chosen.needed_object("json_schema", _read_schema)
        elif kind == "grammar":
            make = Grammar.lark if chosen.choice("syntax", ("lark", "regex"), "lark") == "lark" else Grammar.regex
            definition = chosen.needed_text("definition")
            grammar = chosen.made("definition", lambda: make(definition))
        chosen.close()
        return grammar

    return fields.object(name, read)


def _read_schema(stated: Fields) -> Grammar:
    stated.needed_text("name")
    stated.text("description")
    stated.flag("strict")
    schema = stated.needed_mapping("schema")
    grammar = stated.made("schema", lambda: Grammar.json_schema(schema), code="invalid_schema")
    stated.close()
    return grammar
