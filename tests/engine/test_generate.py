"""Decoding against its definition: greedy, one row, everything computed anew for each token."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.engine.generate import Completion, complete, generate
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.models.llama import LlamaConfig
from modelworks.text.chat import ChatError
from modelworks.text.tokenizer import Tokenizer

CONTEXT, EOS = 48, 256  # of the models in conftest.py


class Scripted(LanguageModel):
    """A model that says what it was told to: `script[n]` after n tokens, whatever they are."""

    def __init__(self, tokenizer: Tokenizer, script: list[int], prompt_tokens: int) -> None:
        super().__init__()
        self.config = LlamaConfig.from_hf(
            {
                "model_type": "llama",
                "vocab_size": 258,
                "hidden_size": 2,
                "intermediate_size": 2,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "max_position_embeddings": 10_000,
                "eos_token_id": None,
            }
        )
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer = tokenizer
        self.script, self.prompt_tokens = script, prompt_tokens
        self.calls = 0

    @property
    def context_length(self) -> int:
        return 10_000

    def hidden_states(self, *_: Any) -> torch.Tensor:
        raise NotImplementedError

    def output_embedding(self) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, input_ids_BT: torch.Tensor, *, cache: Any = None, **_: Any) -> torch.Tensor:
        self.calls += 1
        B, T = input_ids_BT.shape
        keys = torch.zeros(B, 1, T, 2)
        cache.update(0, keys, keys)
        at = min(cache.length - self.prompt_tokens, len(self.script) - 1)
        logits = torch.zeros(B, 1, self.config.vocab_size)
        logits[:, 0, self.script[at]] = 5.0
        return logits


@torch.no_grad()
def naive(model: LanguageModel, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    ids, logprobs = list(prompt), []
    for _ in range(count):
        logprobs_V = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        ids.append(int(logprobs_V.argmax()))
        logprobs.append(float(logprobs_V.max()))
    return ids[len(prompt) :], logprobs


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(256, (1 + 5 * n % 23,), generator=generator).tolist() for n in range(1, count + 1)]


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_cached_equals_naive(any_model: LanguageModel) -> None:
    for prompt in prompts(4):
        (answer,) = complete(any_model, prompt, Sampling(max_tokens=20))
        ids, logprobs = naive(any_model, prompt, 20)
        assert list(answer.ids) == ids
        torch.testing.assert_close(torch.tensor(answer.logprobs), torch.tensor(logprobs), atol=1e-4, rtol=1e-4)
        assert answer.finish_reason == "length"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_batched_equals_alone(any_model: LanguageModel, batch_size: int) -> None:
    """training.md 9 and efficient.md 9, 10: neither padding on the left nor a neighbour changes a row."""
    listed = prompts(5)
    together = complete(any_model, listed, Sampling(max_tokens=20), batch_size=batch_size)
    for prompt, answer in zip(listed, together):
        ids, logprobs = naive(any_model, prompt, 20)
        assert list(answer.ids) == ids
        torch.testing.assert_close(torch.tensor(answer.logprobs), torch.tensor(logprobs), atol=1e-4, rtol=1e-4)


def test_rows_that_finish_leave_the_others_as_they_are(any_model: LanguageModel) -> None:
    listed = prompts(4)
    lengths = [3, 20, 1, 11]
    answers = complete(any_model, listed, [Sampling(max_tokens=length) for length in lengths])
    assert [list(answer.ids) for answer in answers] == [naive(any_model, *pair)[0] for pair in zip(listed, lengths)]


def test_sampled_rows_do_not_depend_on_their_neighbours(bare: LanguageModel) -> None:
    listed = prompts(4)
    sampling = Sampling(temperature=1, top_p=0.9, seed=11, max_tokens=15, repetition_penalty=1.2)
    together = complete(bare, listed, sampling)
    alone = [complete(bare, prompt, sampling)[0] for prompt in listed]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert complete(bare, listed[::-1], sampling)[0].ids == alone[-1].ids


def test_half_precision_batch_is_finite(bare: LanguageModel) -> None:
    """efficient.md 9; pytorch#103749."""
    model = bare.to(torch.bfloat16)
    try:
        answers = complete(model, prompts(4), Sampling(max_tokens=5))
    finally:
        bare.to(torch.float32)
    assert all(math.isfinite(value) for answer in answers for value in answer.logprobs)


def test_greedy_equals_transformers(model: LanguageModel, tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    from modelworks.models.save import save

    save(model, tmp_path)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path)
    for prompt in prompts(3):
        expected = oracle.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=EOS)
        (answer,) = complete(model, prompt, Sampling(max_tokens=20))
        assert list(answer.ids) == expected[0, len(prompt) :].tolist()


# --- log-probabilities ------------------------------------------------------------------------------------------------


def test_logprobs_are_the_models_own(bare: LanguageModel) -> None:
    """Whatever the sampling makes of them: trainers compare them with their own."""
    sampling = Sampling(
        temperature=2.0, top_k=5, repetition_penalty=1.5, presence_penalty=1, logit_bias={3: 9}, seed=0, max_tokens=10
    )
    prompt = prompts(1)[0]
    (answer,) = complete(bare, prompt, sampling)
    ids = [*prompt, *answer.ids]
    logprobs_TV = bare(torch.tensor([ids]))[0].log_softmax(-1)[len(prompt) - 1 : -1]
    expected = logprobs_TV.gather(-1, torch.tensor(answer.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-4, rtol=1e-4)


def test_top_logprobs(bare: LanguageModel) -> None:
    (answer,) = complete(bare, [1, 2, 3], Sampling(max_tokens=4, logprobs=3))
    assert len(answer.top_logprobs) == 4
    for index, value, top in zip(answer.ids, answer.logprobs, answer.top_logprobs):
        assert list(top.values()) == sorted(top.values(), reverse=True)
        assert next(iter(top.items())) == (index, value)
        assert len(top) == 3
    assert complete(bare, [1], Sampling(max_tokens=2))[0].top_logprobs == ()
    assert len(complete(bare, [1], Sampling(max_tokens=1, logprobs=10**6))[0].top_logprobs[0]) == 258


# --- how an answer ends -----------------------------------------------------------------------------------------------


def says(tokenizer: Tokenizer, script: list[int], **settings: Any) -> Completion:
    (answer,) = complete(Scripted(tokenizer, script, 1), "x", Sampling(**settings))
    return answer


def test_eos_ends_an_answer_and_is_among_its_ids(bytes_only: Tokenizer) -> None:
    answer = says(bytes_only, [*b"Hi", EOS, *b"never"])
    assert (answer.text, answer.ids, answer.finish_reason) == ("Hi", (*b"Hi", EOS), "stop")
    assert len(answer.logprobs) == 3


def test_length_ends_an_answer(bytes_only: Tokenizer) -> None:
    answer = says(bytes_only, [*b"Hello", EOS], max_tokens=3)
    assert (answer.text, answer.finish_reason) == ("Hel", "length")
    assert says(bytes_only, [*b"Hel", EOS], max_tokens=4).finish_reason == "stop"


def test_eos_of_the_configuration_ends_an_answer_without_a_tokenizer(bare: LanguageModel) -> None:
    ids, _ = naive(bare, [1, 2, 3], 6)
    config = bare.config
    try:
        bare.config = LlamaConfig(**{**vars(config), "eos_token_id": (ids[3], 999)})
        (answer,) = complete(bare, [1, 2, 3], Sampling(max_tokens=20))
    finally:
        bare.config = config
    assert list(answer.ids) == ids[: ids.index(ids[3]) + 1]
    assert answer.finish_reason == "stop"


def test_stop_string_across_tokens(bytes_only: Tokenizer) -> None:
    answer = says(bytes_only, [*b"Yes.\n\nUser: more"], stop="\n\nUser:")
    assert (answer.text, answer.finish_reason) == ("Yes.", "stop")
    assert bytes(answer.ids) == b"Yes.\n\nUser:"


def test_text_that_might_stop_is_held_back_and_then_shown(bytes_only: Tokenizer) -> None:
    model = Scripted(bytes_only, [*b"a EN", *b"TRY EN", EOS], 1)
    pieces = [piece.text for piece in generate(model, "x", Sampling(stop=["END"]))]
    assert pieces == ["a", " ", "", "", "ENT", "R", "Y", " ", "", "", "EN"]
    assert says(bytes_only, [*b"a EN", *b"TRY"], stop="END", max_tokens=4).text == "a EN"


def test_a_stop_string_completed_by_the_last_token_stops(bytes_only: Tokenizer) -> None:
    answer = says(bytes_only, [*b"ab"], stop="b", max_tokens=2)
    assert (answer.text, answer.finish_reason) == ("a", "stop")


@given(
    text=st.text("aé😀<|", max_size=12),
    stops=st.lists(st.text("aé😀<|", min_size=1, max_size=3), max_size=2),
    max_tokens=st.integers(1, 40),
)
def test_no_part_of_a_stop_string_is_ever_shown(
    bytes_only: Tokenizer, text: str, stops: list[str], max_tokens: int
) -> None:
    """A token is a byte here, so that codepoints and stop strings both cross tokens."""
    model = Scripted(bytes_only, [*text.encode(), EOS], 1)
    pieces = list(generate(model, "x", Sampling(stop=stops, max_tokens=max_tokens)))
    shown = "".join(piece.text for piece in pieces)
    said = text.encode()[:max_tokens].decode(errors="replace")
    matches = [(said.find(stop) + len(stop), said.find(stop)) for stop in stops if stop in said]
    assert shown == (said[: min(matches)[1]] if matches else said)
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    assert pieces[-1].finish_reason is not None
    assert all(len(piece.ids) == len(piece.logprobs) == 1 for piece in pieces)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_kinds_of_prompt(model: LanguageModel) -> None:
    assert model.tokenizer is not None
    chat = [{"role": "user", "content": "hi"}]
    as_ids = model.tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", parse_special=True)
    sampling = Sampling(max_tokens=3)
    together = complete(model, ["hi", [104, 105], chat, as_ids], sampling)
    alone = [complete(model, prompt, sampling)[0] for prompt in ("hi", [104, 105], chat, as_ids)]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert alone[0] == alone[1]
    assert alone[2].ids == alone[3].ids
    assert complete(model, []) == []


def test_control_tokens_in_a_text_prompt_are_text(model: LanguageModel) -> None:
    assert model.tokenizer is not None
    sampling = Sampling(max_tokens=3)
    literal = [*b"a<|im_end|>"]
    assert complete(model, "a<|im_end|>", sampling) == complete(model, literal, sampling)


def test_pieces_come_in_turns(bare: LanguageModel) -> None:
    pieces = list(generate(bare, [[1], [2, 3]], [Sampling(max_tokens=2), Sampling(max_tokens=3)]))
    assert [piece.index for piece in pieces] == [0, 1, 0, 1, 1]
    assert [piece.finish_reason for piece in pieces] == [None, None, "length", None, "length"]


def test_closing_stops_the_work(bytes_only: Tokenizer) -> None:
    model = Scripted(bytes_only, [97], 1)
    stream = generate(model, "x", Sampling(max_tokens=1000))
    for _ in range(3):
        next(stream)
    stream.close()
    assert model.calls == 3
    assert list(stream) == []


def test_too_long_for_the_context_names_the_numbers(model: LanguageModel) -> None:
    with pytest.raises(ContextLengthError, match=r"40 tokens .* 9, together 49; the model's context is 48"):
        generate(model, [1] * 40, Sampling(max_tokens=9))
    with pytest.raises(ContextLengthError, match="together 49"):
        generate(model, [1] * 48, Sampling(max_tokens=None))
    (answer,) = complete(model, [1] * 40, Sampling(max_tokens=None, logit_bias={EOS: -math.inf, 257: -math.inf}))
    assert len(answer.ids) == CONTEXT - 40


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("",), ConfigError, "prompt is empty"),
        (([[]],), ConfigError, "prompt is empty"),
        (([1, 258],), ConfigError, "token 258; the model's ids go from 0 to 257"),
        (([-1],), ConfigError, "token -1"),
        ((["a", "b"], [Sampling()]), ConfigError, "1 samplings for 2 prompts"),
        (([[{"role": "user"}]],), ChatError, "message 0: no content"),
    ],
)
def test_bad_prompts_are_named_before_any_work(
    arguments: tuple[Any, ...], error: type[Exception], message: str, model: LanguageModel
) -> None:
    with pytest.raises(error, match=message):
        generate(model, *arguments)


def test_without_a_tokenizer_only_ids_will_do(bare: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        generate(bare, "text")
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        generate(bare, [1], Sampling(stop="x", max_tokens=2))
    assert complete(bare, [1], Sampling(max_tokens=2))[0].text == ""


def test_bias_outside_the_vocabulary_is_named(bare: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="logit_bias names token 258"):
        generate(bare, [1], Sampling(logit_bias={258: 1.0}, max_tokens=2))


# --- what surrounds it ------------------------------------------------------------------------------------------------


def test_the_consumer_keeps_its_gradients(bare: LanguageModel) -> None:
    for _ in generate(bare, [1, 2], Sampling(max_tokens=2)):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        bare(torch.tensor([[1, 2]])).sum().backward()
    bare.zero_grad()


def test_dropout_is_off_in_a_model_that_trains(gpt2: LanguageModel) -> None:
    """A rollout samples the policy itself, and leaves its modules in the modes they were in."""
    expected = complete(gpt2, [1, 2, 3], Sampling(max_tokens=10))
    gpt2.train()
    frozen = next(module for module in gpt2.modules() if isinstance(module, torch.nn.LayerNorm))
    frozen.eval()
    assert complete(gpt2, [1, 2, 3], Sampling(max_tokens=10)) == expected
    assert [module for module in gpt2.modules() if not module.training] == [frozen]


# --- the starter model ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_starter_cached_equals_naive_and_batched(smollm: LanguageModel) -> None:
    assert smollm.tokenizer is not None
    texts = ["The capital of France is", "def add(a, b):\n    return", "Once upon a time, in 1987,"]
    ids = [smollm.tokenizer.encode(text) for text in texts]
    alone = [naive(smollm, prompt, 12)[0] for prompt in ids]
    assert [list(answer.ids) for answer in complete(smollm, texts, Sampling(max_tokens=12))] == alone


@pytest.mark.slow
def test_starter_answers_a_question(smollm: LanguageModel) -> None:
    (answer,) = complete(smollm, [{"role": "user", "content": "What is the capital of France? Answer in one word."}])
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert "<|im_end|>" not in answer.text
