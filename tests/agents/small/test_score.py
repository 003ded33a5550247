"""Scores by the engine against the model's own log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.agents.halt import Halt
from modelworks.agents.local import LocalModel
from modelworks.agents.model import Halted, Reply
from modelworks.agents.small.score import Opinion, Scorer
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tokenizer import Tokenizer

SIZES = {
    "model_type": "llama",
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "eos_token_id": 256,
    "initializer_range": 0.4,
}


@pytest.fixture(scope="module")
def local() -> Iterator[LocalModel]:
    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>"])
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf(SIZES)).eval()
    model.tokenizer = Tokenizer(backend, eos_id=256, chat_template="{{ messages[0].content }}")
    with LocalModel(model) as made:
        yield made


def test_scores_are_the_model_s_own(local: LocalModel) -> None:
    prompt, prefix, options = list(b"What is it? " * 8), '{"a": ', ["12,", '"ü"', "true"]
    scorer = Scorer(local, prompt)
    found = scorer.logprobs(prefix, options)
    for option, score in zip(options, found, strict=True):
        ids = [*prompt, *prefix.encode(), *option.encode()]
        with torch.inference_mode():
            logits_TV = local.engine.model(torch.tensor([ids]))[0].log_softmax(-1)
        count = len(option.encode())
        wanted = sum(float(logits_TV[len(ids) - count + at - 1, ids[len(ids) - count + at]]) for at in range(count))
        assert score == pytest.approx(wanted, abs=0.15)  # the engine's weights are packed
    assert scorer.tokens == sum(len(option.encode()) for option in options)


def test_an_opinion_of_names_is_of_alternatives_of_one_place(local: LocalModel) -> None:
    scorer = Scorer(local, list(b"the weather " * 4))
    opinion = Opinion(local, scorer)
    found = opinion.names(["forecast", "no_tool"])
    head, _ = local.call_form("forecast")
    before = head[: head.index('"forecast"')]
    wanted = scorer.logprobs(before, ['"forecast",', '"no_tool",'])
    assert list(found.values()) == pytest.approx(wanted, abs=0.02)
    assert found["forecast"] != pytest.approx(found["no_tool"], abs=0.05)
    assert opinion.values("{", ["1,", "2,"]) == pytest.approx(scorer.logprobs("{", ["1,", "2,"]), abs=0.02)


def test_a_draft_stands_before_and_is_paid_for(local: LocalModel) -> None:
    scorer = Scorer(local, list(b"the weather " * 4))
    plain, drafted = Opinion(local, scorer), Opinion(local, scorer, Reply("I look.", (), 30, 5))
    assert drafted.written == "I look.\n"
    assert drafted.names(["forecast", "no_tool"]) != plain.names(["forecast", "no_tool"])
    assert drafted.prompt_tokens == plain.prompt_tokens + 30
    assert drafted.completion_tokens == plain.completion_tokens + 5


def test_a_halt_ends_it(local: LocalModel) -> None:
    halt = Halt()
    halt.set()
    with pytest.raises(Halted):
        Scorer(local, [1, 2, 3], halt).logprobs("", ["a", "b"])
