"""Speculation: the same greedy tokens, the same distribution of sampled ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modelworks.core.errors import ConfigError
from modelworks.engine.engine import Engine
from modelworks.engine.generate import complete
from modelworks.engine.runner import TorchRunner
from modelworks.engine.sample import Sampler, Sampling, filtered
from modelworks.engine.speculate import (
    DraftModel,
    PromptLookup,
    Proposal,
    SpeculativeSampler,
    draft_model,
    early_exit,
    prompt_lookup,
    verify,
)
from modelworks.models.base import LanguageModel
from modelworks.models.llama import LlamaConfig

VOCAB = 5
TARGET = torch.tensor([1.0, 0.3, -0.2, 2.0, -1.0])
DRAFT = torch.tensor([0.2, 1.5, 0.1, 1.0, -3.0])


def chi_square_bound(freedom: int) -> float:
    """Above it with a probability of 1e-4 (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.719 * math.sqrt(spread)) ** 3


def chi_square(counts: Sequence[int], probs: Sequence[float]) -> tuple[float, float]:
    """The statistic and its bound; what has no probability must not occur."""
    total = sum(counts)
    cells = [(count, p * total) for count, p in zip(counts, probs, strict=True) if p > 0]
    assert total == sum(count for count, _ in cells), "a forbidden token was drawn"
    return sum((count - mean) ** 2 / mean for count, mean in cells), chi_square_bound(len(cells) - 1)


# --- one draw ---------------------------------------------------------------------------------------------------------


SETTINGS = [
    *(Sampling(temperature=temperature, seed=1) for temperature in (0.5, 1.0, 1.5)),
    Sampling(temperature=1.0, top_p=0.9, seed=2),
    Sampling(temperature=1.5, top_k=3, seed=3),
    Sampling(temperature=1.0, min_p=0.2, seed=4),
]


def draws(sampling: Sampling, guess: Callable[[torch.Generator], tuple[int, Tensor]], count: int) -> list[int]:
    """How often each token comes out of a sampler that starts from a drafter's guesses."""
    sampler = SpeculativeSampler(sampling, [], VOCAB)
    generator = torch.Generator().manual_seed(77)
    drawn: Counter[int] = Counter()
    for _ in range(count):
        sampler.proposed = guess(generator)
        drawn[sampler.choose(TARGET)] += 1
    return [drawn[token] for token in range(VOCAB)]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_a_draw_has_the_filtered_targets_distribution(sampling: Sampling) -> None:
    """efficient.md 7; z-lab/dflash#74: temperature and filters are part of what is sampled. p and q are enumerated."""
    p_V, q_V = filtered(TARGET, sampling).softmax(-1), filtered(DRAFT, sampling).softmax(-1)

    def guess(generator: torch.Generator) -> tuple[int, Tensor]:
        return int(torch.multinomial(q_V, 1, generator=generator)), q_V

    counts = draws(sampling, guess, 6_000)
    statistic, bound = chi_square(counts, p_V.tolist())
    assert statistic < bound
    # The same count of draws does tell p from q, and from p without the temperature.
    for wrong_V in (q_V, filtered(TARGET, Sampling(temperature=0.8)).softmax(-1)):
        if (wrong_V[p_V > 0] > 0).all() and not torch.allclose(wrong_V, p_V):
            statistic, bound = chi_square(counts, [*(wrong_V * (p_V > 0)).tolist()])
            assert statistic > bound


def test_a_draft_like_the_target_is_always_taken() -> None:
    p_V = TARGET.softmax(-1)
    generator = torch.Generator().manual_seed(0)
    assert all(verify(p_V, p_V, token, generator) == token for token in range(VOCAB) for _ in range(50))


def test_a_guess_that_the_filters_forbid_is_never_taken() -> None:
    p_V, q_V = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0]), torch.full((VOCAB,), 0.2)
    generator = torch.Generator().manual_seed(0)
    assert {verify(p_V, q_V, 4, generator) for _ in range(200)} == {0, 1}


def test_without_a_guess_the_draws_of_a_seed_are_as_ever() -> None:
    sampling = Sampling(temperature=1, seed=5)
    plain, speculative = Sampler(sampling, [], VOCAB), SpeculativeSampler(sampling, [], VOCAB)
    assert [plain.choose(TARGET) for _ in range(50)] == [speculative.choose(TARGET) for _ in range(50)]


# --- whole answers ----------------------------------------------------------------------------------------------------


class Markov(LanguageModel):
    """The next token's distribution depends on the last token, so that of an answer can be enumerated."""

    def __init__(self, logits_VV: Tensor) -> None:
        super().__init__()
        self.config = LlamaConfig.from_hf(
            {
                "model_type": "llama",
                "vocab_size": VOCAB,
                "hidden_size": 2,
                "intermediate_size": 2,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "max_position_embeddings": 64,
                "eos_token_id": None,
            }
        )
        self.logits_VV = torch.nn.Parameter(logits_VV)

    @property
    def context_length(self) -> int:
        return 64

    def forward(self, input_ids_BT: Tensor, *, cache: Any = None, **_: Any) -> Tensor:
        keys = input_ids_BT[:, None, :, None].float()
        cache.update(0, keys, keys)
        return self.logits_VV[input_ids_BT]


def table(seed: int) -> Tensor:
    return torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed))


def test_sampled_answers_have_the_targets_distribution() -> None:
    """Three tokens, all 125 answers: accepted, corrected and ordinary draws follow each other in every order."""
    target, draft = Markov(table(1)), Markov(table(2))
    count, counts = 2000, Counter[tuple[int, ...]]()
    with Engine(
        target,
        runner=TorchRunner(target, kv_bytes=1 << 16, block_size=4),
        max_queued=count,
        prefix_cache=False,
        speculation=draft_model(draft, length=2),
    ) as engine:
        sampling = [Sampling(temperature=1.2, top_p=0.9, max_tokens=3, seed=seed) for seed in range(count)]
        for handle in [engine.submit([0], each) for each in sampling]:
            counts[tuple(index for piece in handle for index in piece.ids)] += 1
        stats = engine.stats().counts
    assert 0.2 < stats.accepted_tokens / stats.drafted_tokens < 0.95
    p_VV = filtered(target.logits_VV.detach(), sampling[0]).softmax(-1)
    answers = torch.cartesian_prod(*[torch.arange(VOCAB)] * 3).tolist()
    probs = [float(p_VV[0, a] * p_VV[a, b] * p_VV[b, c]) for a, b, c in answers]
    # Cells of few expected answers are one cell.
    large = [at for at, p in enumerate(probs) if p * count >= 5]
    small = [at for at in range(len(probs)) if at not in large]
    seen = [counts[tuple(answers[at])] for at in large] + [sum(counts[tuple(answers[at])] for at in small)]
    statistic, bound = chi_square(seen, [probs[at] for at in large] + [sum(probs[at] for at in small)])
    assert statistic < bound


def drafters(model: LanguageModel) -> dict[str, Any]:
    return {
        "lookup": prompt_lookup(least=1),
        "itself": draft_model(model),
        "early exit": draft_model(early_exit(model, 1)),
        "nonsense": lambda model, sampling: Fixed(),
    }


class Fixed:
    """Certain, and mostly wrong."""

    def propose(self, tokens: Sequence[int], limit: int) -> Proposal:
        return Proposal((tokens[-1], 7, 8)[:limit])


@pytest.mark.parametrize("name", ["lookup", "itself", "early exit", "nonsense"])
def test_greedy_answers_are_the_same(any_model: LanguageModel, name: str) -> None:
    prompts = [[*range(40, 40 + n), *range(40, 40 + n)] for n in (1, 4, 9)]
    with Engine(any_model, kv_bytes=1 << 20, speculation=drafters(any_model)[name]) as engine:
        handles = [engine.submit(prompt, Sampling(max_tokens=24)) for prompt in prompts]
        for prompt, handle in zip(prompts, handles):
            got = tuple(index for piece in handle for index in piece.ids)
            assert got == complete(any_model, prompt, Sampling(max_tokens=24))[0].ids
        counts = engine.stats().counts
    if name == "itself":
        assert counts.accepted_tokens == counts.drafted_tokens
        assert counts.steps < 30
    elif name != "lookup":
        assert 0 < counts.drafted_tokens > counts.accepted_tokens


def test_certain_guesses_keep_the_draws_of_a_seed(bare: LanguageModel) -> None:
    sampling = Sampling(temperature=0.6, top_p=0.9, seed=4, max_tokens=24, repetition_penalty=1.1)
    for speculation in (prompt_lookup(least=1), lambda model, sampling: Fixed()):
        with Engine(bare, kv_bytes=1 << 20, speculation=speculation) as engine:
            got = tuple(index for piece in engine.submit([1, 2, 1, 2], sampling) for index in piece.ids)
            assert engine.stats().counts.drafted_tokens > 0
        assert got == complete(bare, [1, 2, 1, 2], sampling)[0].ids


def test_a_seed_makes_speculation_repeatable(bare: LanguageModel) -> None:
    sampling = Sampling(temperature=1, seed=4, max_tokens=20)

    def answer() -> tuple[int, ...]:
        with Engine(bare, kv_bytes=1 << 20, speculation=draft_model(early_exit(bare, 1))) as engine:
            return tuple(index for piece in engine.submit([1, 2], sampling) for index in piece.ids)

    assert answer() == answer()


# --- drafters ---------------------------------------------------------------------------------------------------------


def looked_up(tokens: list[int], limit: int, most: int, least: int) -> tuple[int, ...]:
    """Prompt lookup by its definition."""
    for size in range(most, least - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if size < len(tokens) and tokens[end - size : end] == tokens[-size:]:
                return tuple(tokens[end : end + limit])
    return ()


@given(
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=30),
    cuts=st.lists(st.integers(1, 30), max_size=4),
    most=st.integers(1, 4),
    limit=st.integers(1, 6),
)
def test_prompt_lookup(tokens: list[int], cuts: list[int], most: int, limit: int) -> None:
    """Its index grows with the answer; it says what a search of everything would."""
    drafter = PromptLookup(length=5, most=most, least=1)
    for cut in sorted({*cuts, len(tokens)}):
        known = tokens[:cut]
        assert drafter.propose(known, limit).ids == looked_up(known, min(limit, 5), most, 1)


def test_prompt_lookup_settings() -> None:
    with pytest.raises(ConfigError, match="least=0"):
        prompt_lookup(least=0)
    with pytest.raises(ConfigError, match="length=0"):
        prompt_lookup(length=0)


def test_a_draft_model_says_what_it_would_generate(any_model: LanguageModel) -> None:
    """Whatever became of its guesses before: its own cache follows."""
    drafter = DraftModel(any_model, Sampling(), length=4)
    (expected,) = complete(any_model, [1, 2, 3], Sampling(max_tokens=12))
    assert drafter.propose([1, 2, 3], 9).ids == expected.ids[:4]
    assert drafter.propose([1, 2, 3, *expected.ids[:2]], 2).ids == expected.ids[2:4]
    other = [1, 2, 3, expected.ids[0], 77]
    assert drafter.propose(other, 3).ids == complete(any_model, other, Sampling(max_tokens=3))[0].ids
    assert drafter.propose([5], 1).ids == complete(any_model, [5], Sampling(max_tokens=1))[0].ids


def test_a_draft_model_stops_at_its_context(bare: LanguageModel) -> None:
    drafter = DraftModel(bare, Sampling(), length=4)
    assert len(drafter.propose([1] * 46, 4).ids) == 2
    assert drafter.propose([1] * 48, 4) == Proposal()


def test_a_draft_models_probabilities_are_those_it_drew_from(bare: LanguageModel) -> None:
    sampling = Sampling(temperature=1.5, top_k=4, seed=3)
    proposal = DraftModel(bare, sampling, length=3).propose([1, 2], 3)
    assert proposal.probs_LV is not None
    with torch.no_grad():
        logits_TV = bare(torch.tensor([[1, 2, *proposal.ids[:-1]]]))[0, 1:]
    torch.testing.assert_close(proposal.probs_LV, filtered(logits_TV, sampling).softmax(-1), atol=1e-4, rtol=1e-4)
    assert all(proposal.probs_LV[at, token] > 0 for at, token in enumerate(proposal.ids))


def test_another_vocabulary_is_refused_at_once(bare: LanguageModel) -> None:
    with (
        Engine(Markov(table(1)), kv_bytes=1 << 16, speculation=draft_model(bare)) as engine,
        pytest.raises(ConfigError, match="the draft model has 258 tokens, the model 5"),
    ):
        engine.submit([1], Sampling(max_tokens=2))


def test_early_exit_shares_the_weights_and_leaves_the_model_whole(any_model: LanguageModel) -> None:
    before = complete(any_model, [1, 2], Sampling(max_tokens=5))
    cut = early_exit(any_model, 1)
    own = {id(parameter) for parameter in any_model.parameters()}
    assert {id(parameter) for parameter in cut.parameters()} < own
    assert (cut.config.num_hidden_layers, any_model.config.num_hidden_layers) == (1, 2)
    assert complete(cut, [1, 2], Sampling(max_tokens=5)) != before
    assert complete(any_model, [1, 2], Sampling(max_tokens=5)) == before
    for layers in (0, 2):
        with pytest.raises(ConfigError, match=f"after {layers} layers; the model has 2"):
            early_exit(any_model, layers)
