"""Masks against their definition, forced tokens, and generation under a grammar against decoding without tricks."""

from __future__ import annotations

import gc
import json
import math
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
import regex
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from modelworks.core.errors import ConfigError, GrammarError
from modelworks.engine import constrain as module
from modelworks.engine.constrain import Constraint, constrain
from modelworks.engine.generate import Piece, complete, generate
from modelworks.engine.grammar import Grammar
from modelworks.engine.sample import Sampler, Sampling, SamplingError
from modelworks.models.base import LanguageModel
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tokenizer import Tokenizer

EOS = 256  # of the byte tokenizer in conftest.py
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def start(tokenizer: Tokenizer, grammar: Grammar, size: int | None = None) -> Constraint:
    size = tokenizer.vocab_size if size is None else size
    return constrain(tokenizer, grammar, vocab_size=size, end_ids=tokenizer.stop_ids)


def allowed(constraint: Constraint) -> set[int]:
    return set(constraint.mask().nonzero()[:, 0].tolist())


@pytest.fixture(scope="module")
def spaced() -> Tokenizer:
    """A small SentencePiece vocabulary as Llama's GGUF files state it: a space before every text, byte fallback."""
    words = ["▁", "{", '"', ":", "}", "a", "b", "▁a", "ab", "▁ab", '{"', '▁{"', '":', "▁{"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 259 + [-float(at) for at in range(len(words))],
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
        }
    )


@pytest.fixture(scope="module", params=["bytes_only", "merged", "spaced"])
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def roomy(bytes_only: Tokenizer, make_llama: Callable[..., Llama]) -> Llama:
    """A small random model with room for whole answers."""
    model = make_llama(max_position_embeddings=512)
    model.tokenizer = bytes_only
    return model


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["ab(ab)*", "[a-c]{2,5}x?", "(a|ab)(a|12)+", "a*", r"\{\"a\":(12|1)\}", "(?i)aBa", "."]
)
@given(data=st.data())
@settings(max_examples=15)
def test_a_mask_is_what_can_still_become_a_match(pattern: str, any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    """By the definition: the text so far and the token are the beginning of a text that matches."""
    constraint, text = start(any_tokenizer, Grammar.regex(pattern)), ""
    ascii_only = {
        index: spelled.decode()
        for index in range(any_tokenizer.vocab_size)
        if index not in any_tokenizer.control_ids and (spelled := any_tokenizer.token_bytes(index)).isascii()
    }
    for _ in range(6):
        now = allowed(constraint)
        expected = {
            index
            for index, spelled in ascii_only.items()
            if spelled and regex.fullmatch(pattern, text + spelled, partial=True)
        }
        if forced := constraint.forced():  # one text, and of its spellings the tokenizer's
            assert now == {forced[0]}
            assert now <= expected | any_tokenizer.stop_ids
            expected = now
        assert now & set(ascii_only) == expected
        assert bool(now & any_tokenizer.stop_ids) == bool(regex.fullmatch(pattern, text))
        if not expected:
            break
        token = data.draw(st.sampled_from(sorted(expected)))
        constraint.accept(token)
        text += ascii_only[token]
        if constraint.finished:
            assert regex.fullmatch(pattern, text)
            break


def test_control_tokens_are_no_text(any_tokenizer: Tokenizer) -> None:
    """Only those that end a turn, and only where the text may end."""
    constraint = start(any_tokenizer, Grammar.regex(r"(?s).{2,}"))
    for index in any_tokenizer.encode("ab", add_special=False):
        assert allowed(constraint).isdisjoint(any_tokenizer.control_ids)
        constraint.accept(index)
    if not allowed(constraint) & any_tokenizer.control_ids:  # a space before the text was one of the two characters
        constraint.accept(any_tokenizer.encode("b", add_special=False)[-1])
    assert allowed(constraint) & any_tokenizer.control_ids == any_tokenizer.stop_ids
    constraint.accept(min(any_tokenizer.stop_ids))
    assert constraint.finished
    with pytest.raises(GrammarError):
        constraint.accept(min(any_tokenizer.stop_ids) + 5)


def test_the_spelling_of_a_control_token_is_text(bytes_only: Tokenizer) -> None:
    constraint = start(bytes_only, Grammar.regex(r"<\|im_end\|>"))
    assert bytes(constraint.forced()) == b"<|im_end|>"


def test_codepoints_cross_tokens(merged: Tokenizer) -> None:
    assert {merged.token_bytes(index) for index in allowed(start(merged, Grammar.regex("a?é")))} == {
        b"a",
        b"\xc3",
        b"\xc3\xa9",
        b"a\xc3",
    }


def test_no_token_breaks_a_text(merged: Tokenizer) -> None:
    """Bytes that continue no codepoint are never allowed, even by a grammar that allows any text."""
    constraint = start(merged, Grammar.regex(r"(?s).*"))
    assert merged.encode("é")[0] in allowed(constraint)
    lone = [index for index in range(merged.vocab_size) if merged.token_bytes(index)[:1] in (b"\xa9", b"\xff", b"\xc0")]
    assert len(lone) > 3
    assert allowed(constraint).isdisjoint(lone)


@pytest.mark.parametrize(("size", "end"), [(240, set()), (300, {256})])
def test_models_with_another_vocabulary_than_their_tokenizer(size: int, end: set[int], bytes_only: Tokenizer) -> None:
    """Rows that pad an embedding, and a vocabulary that was cut, without a token that ends and without some bytes."""
    constraint = start(bytes_only, Grammar.regex("[a-b]*"), size)
    assert constraint.mask().shape == (size,)
    assert allowed(constraint) == {*b"ab", *end}
    constraint = start(bytes_only, Grammar.regex("a"), size)
    constraint.accept(ord("a"))
    assert constraint.finished
    with pytest.raises(GrammarError, match="no text satisfies it, or none that the model's tokens spell"):
        start(bytes_only, Grammar.regex("\U0001f600"), 200).mask()


def test_a_tokenizer_without_bytes_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(GrammarError, match="WordPiece"):
        start(Tokenizer(backend, unk_id=0), Grammar.regex("ab"))


# --- forced tokens ----------------------------------------------------------------------------------------------------


def test_what_is_forced_is_allowed_and_spelled_as_ever(any_tokenizer: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"ab": {"const": "a"}}, "required": ["ab"], "additionalProperties": False}
    constraint, spelled, chosen = start(any_tokenizer, Grammar.json_schema(schema)), [], 0
    while not constraint.finished:
        tokens = constraint.forced()
        chosen += not tokens
        for token in tokens or [max(allowed(constraint))]:
            assert token in allowed(constraint)
            constraint.accept(token)
            spelled.append(token)
    assert b"".join(map(any_tokenizer.token_bytes, spelled)) == b'{"ab":"a"}'
    assert chosen == 0
    if not any_tokenizer.adds_prefix_space:
        assert spelled == any_tokenizer.encode('{"ab":"a"}')


def test_nothing_is_forced_where_there_is_a_choice(any_tokenizer: Tokenizer) -> None:
    assert start(any_tokenizer, Grammar.regex("a|b")).forced() == ()
    constraint = start(any_tokenizer, Grammar.regex("a(ba)?"))
    constraint.accept(next(index for index in allowed(constraint) if any_tokenizer.token_bytes(index) == b"a"))
    assert constraint.forced() == ()  # the end is a choice too


def test_text_that_the_tokenizer_would_rewrite_is_forced_as_it_is() -> None:
    """Some tokenizers normalise; the grammar's bytes count."""
    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    constraint = start(Tokenizer(backend), Grammar.regex("Hello World"))
    assert bytes(constraint.forced()) == b"Hello World"


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_tables_and_grammars_are_built_once(merged: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRAMMARS_KEPT", 2)
    vocabulary = module._Vocabulary(merged, merged.vocab_size, merged.stop_ids)
    for pattern in "abab":
        vocabulary.matcher(Grammar.regex(pattern))
    assert vocabulary._compiled.cache_info()[:2] == (2, 2)
    for pattern in "cda":
        vocabulary.matcher(Grammar.regex(pattern))
    assert vocabulary._compiled.cache_info().misses == 5
    assert vocabulary._compiled.cache_info().currsize == 2
    size, ends = merged.vocab_size, merged.stop_ids
    assert module._vocabulary(merged, size, ends) is module._vocabulary(merged, size, frozenset(ends))
    assert module._vocabulary(merged, size, ends) is not module._vocabulary(merged, size + 1, ends)


def test_answers_share_a_grammar_and_no_state(bytes_only: Tokenizer) -> None:
    grammar = Grammar.regex("(ab)+|cd")
    first, second = start(bytes_only, grammar), start(bytes_only, grammar)
    first.accept(ord("a"))
    assert allowed(second) == {*b"ac"}
    second.accept(ord("c"))
    assert (allowed(first), allowed(second)) == ({*b"b"}, {*b"d"})


def test_a_tokenizer_is_not_kept_alive() -> None:
    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(backend)
    start(tokenizer, Grammar.regex("abc")).forced()
    gone = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert gone() is None


def walk(tokenizer: Tokenizer, grammar: Grammar, seed: int) -> list[int]:
    """Tokens of a text that ends, drawn at random."""
    constraint, ids, draw = start(tokenizer, grammar), [], random.Random(seed)
    while not constraint.finished:
        ids.append(draw.choice(sorted(allowed(constraint))))
        constraint.accept(ids[-1])
    return ids


def test_threads(merged: Tokenizer) -> None:
    grammars = [Grammar.json_schema({"enum": [f"value {n}", n, f"é{n}"]}) for n in range(4)]
    alone = [walk(merged, grammars[n % 4], n) for n in range(40)]
    assert len({tuple(ids) for ids in alone}) > 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: walk(merged, grammars[n % 4], n), range(40))) == alone


# --- generation -------------------------------------------------------------------------------------------------------


def raw_logprobs(model: LanguageModel, prompt: list[int], ids: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        logprobs_TV = model(torch.tensor([[*prompt, *ids]]))[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return logprobs_TV.gather(-1, torch.tensor(ids)[:, None])[:, 0]


def naive(model: LanguageModel, prompt: list[int], sampling: Sampling) -> list[int]:
    """A token at a time, everything computed anew, every mask asked for, forced or not."""
    assert model.tokenizer is not None
    assert sampling.grammar is not None
    constraint = start(model.tokenizer, sampling.grammar)
    sampler = Sampler(sampling, prompt, model.config.vocab_size)
    ids: list[int] = []
    waiting: list[int] = []
    while not constraint.finished and len(ids) < (sampling.max_tokens or 10**6):
        waiting = waiting or list(constraint.forced())
        if waiting:
            token = waiting.pop(0)
            sampler.record(token)
        else:
            with torch.no_grad():
                logits_V = model(torch.tensor([[*prompt, *ids]]))[0, -1]
            token = sampler.choose(logits_V, constraint.mask())
        constraint.accept(token)
        ids.append(token)
    return ids


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=1.5, seed=3), Sampling(temperature=1, seed=4, repetition_penalty=1.3, top_p=0.9)],
)
def test_generated_is_naive_and_valid_with_the_models_logprobs(roomy: Llama, sampling: Sampling) -> None:
    """Forced tokens share a forward pass; nothing else may tell."""
    sampling = Sampling(**{**fields(sampling), "grammar": Grammar.json_schema(PERSON), "max_tokens": 60, "logprobs": 2})
    prompt = list(b"Who?")
    pieces = list(generate(roomy, prompt, sampling))
    ids = [index for piece in pieces for index in piece.ids]
    assert ids == naive(roomy, prompt, sampling)
    jsonschema.validate(json.loads("".join(piece.text for piece in pieces)), PERSON)
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    got = torch.tensor([value for piece in pieces for value in piece.logprobs])
    torch.testing.assert_close(got, raw_logprobs(roomy, prompt, ids), atol=1e-4, rtol=1e-4)
    assert all(len(top) == 2 for piece in pieces for top in piece.top_logprobs)
    assert min(got) < -3  # what the model would not have said is reported as unlikely as it is


def fields(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in Sampling.__dataclass_fields__}


def test_forced_tokens_cost_no_forward_pass(roomy: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = type(roomy).forward

    def counted(self: Llama, input_ids_BT: torch.Tensor, **arguments: Any) -> torch.Tensor:
        calls.append(input_ids_BT.shape[1])
        return forward(self, input_ids_BT, **arguments)

    monkeypatch.setattr(type(roomy), "forward", counted)
    grammar = Grammar.json_schema(
        {"enum": ["a long text to begin with: x, and an end", "a long text to begin with: y"]}
    )
    (answer_,) = complete(roomy, [1, 2, 3], Sampling(grammar=grammar, max_tokens=100))
    assert answer_.finish_reason == "stop"
    # The prompt; what is forced up to the choice; and, after an x, what is forced from there on.
    assert len(calls) == (3 if "x" in answer_.text else 2)
    assert sum(calls) == 3 + len(answer_.ids) - 1


def test_batched_is_alone(roomy: Llama) -> None:
    """Rows that a grammar forces wait for those that it does not, and for those without one."""
    grammars = [Grammar.json_schema(PERSON), None, Grammar.regex("(ab|cd){3}"), Grammar.regex("[a-z ]+\\.")]
    samplings = [Sampling(grammar=grammar, temperature=1, seed=n, max_tokens=30) for n, grammar in enumerate(grammars)]
    listed = [list(b"x" * length) for length in (3, 1, 9, 5)]
    together = complete(roomy, listed, samplings)
    for one, alone in zip(together, (complete(roomy, *pair)[0] for pair in zip(listed, samplings))):
        assert (one.text, one.ids, one.finish_reason) == (alone.text, alone.ids, alone.finish_reason)
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(alone.logprobs), atol=1e-4, rtol=1e-4)


def says(model: LanguageModel, **settings: Any) -> tuple[str, int, str]:
    (answer_,) = complete(model, [7], Sampling(**settings))
    return answer_.text, len(answer_.ids), answer_.finish_reason


def test_how_a_constrained_answer_ends(roomy: Llama) -> None:
    hello = Grammar.regex("hello")
    assert says(roomy, grammar=hello) == ("hello", 5, "stop")
    assert says(roomy, grammar=hello, max_tokens=5) == ("hello", 5, "stop")
    assert says(roomy, grammar=hello, max_tokens=4) == ("hell", 4, "length")
    assert says(roomy, grammar=hello, max_tokens=1) == ("h", 1, "length")
    assert says(roomy, grammar=hello, stop="lo") == ("hel", 5, "stop")
    assert says(roomy, grammar=hello, stop="el") == ("h", 3, "stop")
    # Where the text may end and may go on, the model decides, by its own token for it.
    optional = Grammar.regex("hi( there)?")
    assert says(roomy, grammar=optional, logit_bias={EOS: 99.0}) == ("hi", 3, "stop")
    assert says(roomy, grammar=optional, logit_bias={EOS: -math.inf}) == ("hi there", 8, "stop")
    assert says(roomy, grammar=Grammar.regex(""), max_tokens=3) == ("", 1, "stop")


def test_no_bias_lets_out_of_a_grammar(roomy: Llama) -> None:
    assert says(roomy, grammar=Grammar.regex("[ab]{4}"), logit_bias={ord("z"): 100.0})[0].strip("ab") == ""
    with pytest.raises(SamplingError, match="all that the grammar allows"):
        says(roomy, grammar=Grammar.regex("a[bc]"), logit_bias={ord("b"): -math.inf, ord("c"): -math.inf})
    with pytest.raises(SamplingError):  # forced, and ruled out
        says(roomy, grammar=Grammar.regex("abc"), logit_bias={ord("b"): -math.inf})


def test_forced_tokens_count_as_said(roomy: Llama) -> None:
    sampling = {"grammar": Grammar.regex("ab[ac]"), "logit_bias": {ord("a"): 30.0}}
    assert says(roomy, **sampling)[0] == "aba"
    assert says(roomy, **sampling, frequency_penalty=100.0)[0] == "abc"


def test_errors_come_before_any_work_where_they_can(roomy: Llama, bare: LanguageModel) -> None:
    with pytest.raises(GrammarError, match="unclosed"):
        generate(roomy, [1], Sampling(grammar=Grammar.regex("[")))
    with pytest.raises(ConfigError, match="a grammar needs a tokenizer"):
        generate(bare, [1], Sampling(grammar=Grammar.regex("a"), max_tokens=2))
    with pytest.raises(ConfigError, match=r"sampling.grammar is 'a', expected a Grammar"):
        Sampling(grammar="a")  # type: ignore[arg-type]
    dead = generate(roomy, [1], Sampling(grammar=Grammar.lark('start: ("a" | "c") b\nb: b b')))
    with pytest.raises(GrammarError, match="no text satisfies it"):  # the compiler does not look that far ahead
        list(dead)


def test_a_constrained_text_is_what_its_tokens_spell(spaced: Tokenizer) -> None:
    """In a chat SentencePiece takes a space off an answer's start; a grammar that asks for one gets it."""
    torch.manual_seed(1)
    config = {
        "model_type": "llama",
        "vocab_size": spaced.vocab_size,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    model = Llama(LlamaConfig.from_hf(config))
    model.tokenizer = spaced
    spaced.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = [{"role": "user", "content": "ab"}]
    for text in (" ab", "ab", "  a"):
        (answer_,) = complete(model, [chat], Sampling(grammar=Grammar.regex(text), max_tokens=9))
        assert (answer_.text, answer_.finish_reason) == (text, "stop")


def test_starter(smollm: LanguageModel) -> None:
    assert smollm.tokenizer is not None
    question = [{"role": "user", "content": "Who wrote Hamlet? Answer as JSON with name and age."}]
    sampling = Sampling(grammar=Grammar.json_schema(PERSON), temperature=1.5, seed=1, max_tokens=40)
    pieces: Iterator[Piece] = generate(smollm, [question], sampling)
    text = "".join(piece.text for piece in pieces)
    jsonschema.validate(json.loads(text), PERSON)
