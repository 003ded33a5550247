"""How a request wants its tokens chosen: the fields that chat, completions and responses share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from modelworks.engine.grammar import Grammar
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.serve.errors import ApiError, as_api_error
from modelworks.serve.fields import Fields, is_number

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
    lengths = {name: fields.integer(name, 1, _HUGE) for name in max_tokens if fields.has(name)}
    if len(set(lengths.values())) > 1:
        raise fields.wrong(max_tokens[0], f"the same number as {max_tokens[1]}", code="invalid_value")
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    stated = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": fields.integer("top_k", 0, _HUGE),
        "min_p": fields.number("min_p", 0, 1),
        "repetition_penalty": fields.number("repetition_penalty", 0.01, 100),
        "frequency_penalty": fields.number("frequency_penalty", -2, 2),
        "presence_penalty": fields.number("presence_penalty", -2, 2),
        "seed": None if seed is None else seed % 2**63,
        "max_tokens": next(iter(lengths.values()), None),
        "stop": fields.texts("stop", _MOST_STOPS) or None,
        "logit_bias": _logit_bias(fields) or None,
        "logprobs": logprobs or None,
    }
    return {name: value for name, value in stated.items() if value is not None}


def _logit_bias(fields: Fields) -> dict[int, float]:
    stated = fields.mapping("logit_bias") or {}
    for token, bias in stated.items():
        if not re.fullmatch("[0-9]{1,9}", token) or not is_number(bias) or not -100 <= bias <= 100:
            raise fields.wrong("logit_bias", "token ids, each with a number from -100 to 100", code="invalid_value")
    return {int(token): float(bias) for token, bias in stated.items()}


def read_format(fields: Fields, name: str, *, inline: bool) -> Grammar | None:
    """`response_format` (its schema under `json_schema`) or, with `inline`, `text.format` (its schema beside the type).

    Beyond OpenAI's kinds there is `{"type": "grammar", "syntax": "regex" or "lark", "definition": ...}`, the form that
    OpenAI's custom tools have.
    """
    chosen = fields.object(name)
    if chosen is None:
        return None
    kind = chosen.choice("type", ("text", "json_object", "json_schema", "grammar"), "text")
    grammar: Grammar | None = None
    if kind == "json_object":
        grammar = Grammar.json_schema({"type": "object"})
    elif kind == "json_schema":
        chosen.need("schema" if inline else "json_schema")
        stated = chosen if inline else chosen.object("json_schema")
        assert stated is not None
        stated.needed_text("name")
        stated.text("description")
        stated.flag("strict")
        stated.need("schema")
        schema = stated.mapping("schema")
        assert schema is not None
        grammar = json_schema(schema, stated.at("schema"))
        stated.close()
    elif kind == "grammar":
        syntax = chosen.choice("syntax", ("lark", "regex"), "lark")
        definition = chosen.needed_text("definition")
        try:
            grammar = Grammar.lark(definition) if syntax == "lark" else Grammar.regex(definition)
        except Exception as error:
            raise as_api_error(error, param=chosen.at("definition")) or error from error
    chosen.close()
    return grammar


def json_schema(schema: Mapping[str, Any], path: str) -> Grammar:
    """The grammar of a schema; an `ApiError` that names the field where it is not valid."""
    try:
        return Grammar.json_schema(schema)
    except Exception as error:
        told = as_api_error(error, param=path)
        if told is None:
            raise
        raise ApiError(told.status, f"{path}: {told.message}", param=path, code="invalid_schema") from error
