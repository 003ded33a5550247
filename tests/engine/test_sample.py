"""Each step against transformers' logits processors, and the boundaries that toolkits have had wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from modelworks.core.errors import ConfigError
from modelworks.engine.sample import (
    Sampler,
    Sampling,
    SamplingError,
    add_bias,
    draw,
    filtered,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_counts,
    penalize_repetition,
    scale,
)

IDS = torch.zeros(8, 0, dtype=torch.long)  # which these processors do not look at


def logits(seed: int = 0, rows: int = 8, size: int = 60) -> Tensor:
    return 3 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def kept(logits_BV: Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in logits_BV]


# --- against transformers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 7, 59, 60, 1000])
def test_top_k(k: int) -> None:
    assert torch.equal(keep_top_k(logits(), k), TopKLogitsWarper(k)(IDS, logits()))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9, 0.99, 0.999])
def test_top_p(p: float) -> None:
    assert torch.equal(keep_top_p(logits(), p), TopPLogitsWarper(p)(IDS, logits()))


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 1.0])
def test_min_p(p: float) -> None:
    assert torch.equal(keep_min_p(logits(), p), MinPLogitsWarper(p)(IDS, logits()))


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
def test_repetition_penalty(penalty: float) -> None:
    ids = torch.randint(60, (8, 5), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(8, 60, dtype=torch.bool).scatter(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits())
    torch.testing.assert_close(penalize_repetition(logits(), seen, penalty), expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_chain_gives_transformers_distribution(seed: int) -> None:
    sampling = Sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.05)
    chain = LogitsProcessorList(
        [TemperatureLogitsWarper(0.7), TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)]
    )
    ours = filtered(logits(seed), sampling).softmax(-1)
    torch.testing.assert_close(ours, chain(IDS, logits(seed)).softmax(-1))


def test_counts() -> None:
    row = torch.tensor([[1.0, 2.0, -3.0, 0.0]])
    counts = torch.tensor([[0.0, 1.0, 3.0, 0.0]])
    assert penalize_counts(row, counts, 0.5, 0.25).tolist() == [[1.0, 1.25, -4.75, 0.0]]


# --- boundaries: efficient.md 8; transformers#18976, #19839 -----------------------------------------------------------

FOUR = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()


def test_a_nucleus_that_is_reached_exactly_is_complete() -> None:
    assert kept(keep_top_p(FOUR, 0.8)) == [[0, 1]]
    assert kept(keep_top_p(FOUR, 0.8001)) == [[0, 1, 2]]
    assert kept(keep_top_p(FOUR, 0.5)) == [[0]]
    assert kept(keep_top_p(FOUR.double(), 0.8)) == [[0, 1]]
    assert kept(keep_top_p(FOUR.flip(-1), 0.8)) == [[2, 3]]


@given(
    row=st.lists(st.sampled_from([-math.inf, -2.0, -1.0, 0.0, 0.5, 1.0]), min_size=1, max_size=40).filter(
        lambda row: max(row) > -math.inf
    ),
    p=st.floats(0, 0.999),
)
def test_top_p_by_its_definition(row: list[float], p: float) -> None:
    """Of equally likely tokens at the boundary those of the lowest ids stay."""
    probs = torch.tensor(row).double().softmax(-1).tolist()
    order = sorted(range(len(row)), key=lambda token: -probs[token])
    mass, expected = 0.0, order[:1]
    for token in order:
        if mass >= p - 1e-6:
            break
        expected = order[: order.index(token) + 1]
        mass += probs[token]
    assert kept(keep_top_p(torch.tensor([row]), p)) == [sorted(expected)]


def test_draws_have_the_distribution_and_never_a_token_without_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    probs_V = torch.tensor([0.0, 0.5, 0.0, 1.5, 2.0, 0.0])  # any sum will do
    counts = torch.bincount(torch.tensor([draw(probs_V, generator) for _ in range(4000)]), minlength=6)
    assert counts[probs_V == 0].sum() == 0
    torch.testing.assert_close(counts / 4000, probs_V / 4, atol=0.03, rtol=0)


def test_top_p_0_keeps_the_likeliest() -> None:
    assert kept(keep_top_p(FOUR, 0.0)) == [[0]]
    assert not filtered(FOUR, Sampling(temperature=1, top_p=0.0)).softmax(-1).isnan().any()


def test_top_p_1_and_top_k_0_are_off() -> None:
    tail = torch.tensor([[0.0, -80.0, -90.0]])  # nothing but the first has a probability above rounding
    assert kept(keep_top_p(tail, 1.0)) == [[0, 1, 2]]
    assert torch.equal(keep_top_k(FOUR, 0), FOUR)
    assert torch.equal(keep_min_p(FOUR, 0.0), FOUR)


def test_top_k_keeps_ties() -> None:
    assert kept(keep_top_k(FOUR, 3)) == [[0, 1, 2, 3]]


@given(
    row=st.lists(st.floats(-50, 50), min_size=2, max_size=20),
    p=st.floats(0, 1),
)
def test_a_nucleus_is_the_smallest_that_reaches_p(row: list[float], p: float) -> None:
    tensor = torch.tensor([row], dtype=torch.float64)
    (ids,) = kept(keep_top_p(tensor, p))
    probs = tensor.softmax(-1)[0]
    mass = float(probs[ids].sum())
    assert mass >= p - 2e-6
    assert len(ids) == 1 or p >= 1 or mass - float(probs[ids].min()) < p
    assert float(probs[ids].max()) == float(probs.max())


@given(temperature=st.floats(1e-30, 1e30))
def test_no_temperature_overflows(temperature: float) -> None:
    probs = scale(torch.tensor([[1e4, -1e4, 0.0]]), temperature).softmax(-1)
    assert not probs.isnan().any()
    assert probs.argmax() == 0


# --- the sampler ------------------------------------------------------------------------------------------------------


def draws(sampling: Sampling, row: Tensor, count: int, prompt: list[int] | None = None) -> list[int]:
    sampler = Sampler(sampling, prompt or [], row.shape[-1])
    return [sampler.choose(row) for _ in range(count)]


def test_greedy_is_the_default() -> None:
    assert draws(Sampling(), logits()[0], 3) == [int(logits()[0].argmax())] * 3


def test_nan_is_never_chosen() -> None:
    row = torch.tensor([math.nan, 1.0, math.nan, 0.0])
    assert set(draws(Sampling(temperature=1, seed=0), row, 50)) == {1, 3}
    assert draws(Sampling(), row, 1) == [1]
    assert draws(Sampling(temperature=1, seed=0), torch.tensor([0.0, math.inf]), 5) == [1] * 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_choice_at_all_is_an_error(temperature: float) -> None:
    with pytest.raises(SamplingError, match="no token can be chosen"):
        draws(Sampling(temperature=temperature), torch.full((4,), math.nan), 1)
    with pytest.raises(SamplingError, match="no token can be chosen"):
        draws(Sampling(temperature=temperature, logit_bias={0: -math.inf, 1: -math.inf}), torch.zeros(2), 1)


def test_seed_repeats_and_matters() -> None:
    row = torch.zeros(1000)
    first = draws(Sampling(temperature=1, seed=7), row, 5)
    assert draws(Sampling(temperature=1, seed=7), row, 5) == first
    assert draws(Sampling(temperature=1, seed=8), row, 5) != first
    assert draws(Sampling(temperature=1), row, 5) != draws(Sampling(temperature=1), row, 5)


def test_seed_leaves_torchs_own_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    draws(Sampling(temperature=1, seed=7), torch.zeros(10), 5)
    assert torch.equal(torch.rand(3), expected)


def test_draws_follow_the_distribution() -> None:
    """Pearson's chi-square, 3 degrees of freedom: 16.27 is exceeded with probability .001."""
    count = 4000
    sampling = Sampling(temperature=0.8, seed=3)
    expected = (FOUR[0] / 0.8).softmax(-1) * count
    seen = torch.bincount(torch.tensor(draws(sampling, FOUR[0], count)), minlength=4)
    assert float(((seen - expected) ** 2 / expected).sum()) < 16.27


def test_bias_forbids_and_forces() -> None:
    row = logits()[0]
    best = int(row.argmax())
    assert draws(Sampling(logit_bias={best: -math.inf}), row, 1) != [best]
    assert draws(Sampling(logit_bias={5: 100.0}), row, 1) == [5]
    with pytest.raises(ConfigError, match="token 60; ids go from 0 to 59"):
        add_bias(logits(), {60: 1.0})


def test_repetition_penalty_counts_the_prompt_and_the_others_do_not() -> None:
    row = torch.tensor([2.0, 1.5, 0.1])
    assert draws(Sampling(repetition_penalty=2.0), row, 2, prompt=[0]) == [1, 0]
    assert draws(Sampling(presence_penalty=1.0), row, 3, prompt=[0]) == [0, 1, 0]
    assert draws(Sampling(frequency_penalty=0.6), row, 4, prompt=[0]) == [0, 1, 0, 1]


def test_input_is_left_alone() -> None:
    row = logits()[0]
    before = row.clone()
    draws(Sampling(temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, repetition_penalty=2, logit_bias={1: 1}), row, 3)
    assert torch.equal(row, before)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 1.1},
        {"top_p": -0.1},
        {"top_p": math.nan},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"frequency_penalty": math.nan},
        {"presence_penalty": math.inf},
        {"seed": -1},
        {"max_tokens": 0},
        {"stop": ["a", ""]},
        {"stop": ""},
        {"logprobs": -1},
        {"logit_bias": {1: math.nan}},
        {"logit_bias": {1: math.inf}},
    ],
)
def test_settings_out_of_range_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"sampling\.{next(iter(bad))} is .*, expected"):
        Sampling(**bad)


def test_one_stop_string_is_a_list_of_one() -> None:
    assert Sampling(stop="ab").stop == ("ab",)
