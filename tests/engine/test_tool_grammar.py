"""What a model is offered, apart from any server; the grammars themselves are tested where requests are read."""

from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from modelworks.core.errors import ConfigError
from modelworks.engine.grammar import Grammar
from modelworks.engine.tool_grammar import Offer, call_form
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import ToolCall

CLOCK = {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}}
NATIVE = '{% if tools %}{"name": ..., "parameters": ...}{% endif %}{{ messages[0].content }}'


@pytest.fixture(params=["hermes", "json"])
def tokenizer(request: pytest.FixtureRequest, bytes_only: Tokenizer) -> Tokenizer:
    if request.param == "json":
        return Tokenizer(bytes_only.backend, eos_id=bytes_only.eos_id, chat_template=NATIVE)
    return bytes_only


def test_the_form_of_a_call_is_what_grammar_and_parser_take(tokenizer: Tokenizer) -> None:
    head, tail = call_form(tokenizer, "clock")
    twice = (f"{head}{{}}{tail}" * 2).strip("; \n")
    offer = Offer((CLOCK,), "required")
    grammar, parser = offer.grammar(tokenizer), offer.parser(tokenizer)
    assert grammar is not None
    assert parser is not None
    matcher = LLMatcher(LLTokenizer("byte"), grammar.compiled())
    assert matcher.try_consume_tokens(list(twice.encode())) == len(twice)
    assert matcher.is_accepting()
    assert [*parser.push(twice), *parser.flush()] == [ToolCall("clock", "{}")] * 2


def test_what_is_not_offered_is_not_told(bytes_only: Tokenizer) -> None:
    told, native = Offer((CLOCK,)).told(bytes_only, [{"role": "user", "content": "Time?"}])
    assert native is None
    assert json.dumps(CLOCK) in told[0]["content"]
    none = Offer((CLOCK,), "none")
    assert none.told(bytes_only, [{"role": "user", "content": "Time?"}])[0] == told[1:]
    assert none.grammar(bytes_only) is None
    assert none.parser(bytes_only) is None


def test_a_grammar_beside_tools_is_refused(bytes_only: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="cannot be combined"):
        Offer((CLOCK,)).grammar(bytes_only, Grammar.regex("a"))
