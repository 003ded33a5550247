"""One prompt on its way: what the model must read next, and what comes of its logits."""

from __future__ import annotations

import pytest
import torch

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.engine.grammar import Grammar
from modelworks.engine.row import Row
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel


def likes(token: int) -> torch.Tensor:
    logits_V = torch.zeros(258)
    logits_V[token] = 9.0
    return logits_V


def test_it_reads_its_prompt_and_then_its_newest_token(model: LanguageModel) -> None:
    row = Row(model, 0, "hi", Sampling(max_tokens=2), None)
    assert row.feed(row.ready) == list(b"hi")
    assert row.take(likes(ord("a"))).text == "a"
    assert row.feed(row.ready) == [ord("a")]
    assert row.take(likes(ord("b"))).finish_reason == "length"
    assert row.finished


def test_what_a_grammar_forces_is_read_at_once_and_taken_whatever_the_logits(model: LanguageModel) -> None:
    row = Row(model, 0, "hi", Sampling(max_tokens=9, grammar=Grammar.regex("(ab|cd)xyz")), None)
    assert not row.forced
    assert row.take(likes(ord("c"))).text == "c"
    assert list(row.forced) == list(b"dxyz")
    assert row.ready == 4
    assert row.feed(4) == list(b"cdxy")
    pieces = [row.take(likes(ord("q"))) for _ in range(4)]
    assert "".join(piece.text for piece in pieces) == "dxyz"
    assert [piece.finish_reason for piece in pieces] == [None, None, None, "stop"]
    assert pieces[0].logprobs[0] == pytest.approx(float(likes(ord("q")).log_softmax(-1)[ord("d")]))


def test_a_prompt_that_cannot_be_is_refused_at_once(model: LanguageModel, bare: LanguageModel) -> None:
    with pytest.raises(ContextLengthError, match="together 51; the model's context is 48"):
        Row(model, 0, "x" * 11, Sampling(max_tokens=40), None)
    with pytest.raises(ConfigError, match="token 300"):
        Row(model, 0, [1, 300], Sampling(max_tokens=1), None)
    with pytest.raises(ConfigError, match="no tokenizer"):
        Row(bare, 0, "text", Sampling(max_tokens=1), None)
