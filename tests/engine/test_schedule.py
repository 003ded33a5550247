"""The scheduler step by step, in one thread: whatever shares a step, an answer is the one that `generate` gives."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.engine.generate import Piece, complete
from modelworks.engine.grammar import Grammar
from modelworks.engine.handle import join
from modelworks.engine.runner import TorchRunner, open_model
from modelworks.engine.sample import Sampling, SamplingError
from modelworks.engine.schedule import Request, Scheduler, _shares, ask
from modelworks.engine.speculate import Proposal, prompt_lookup
from modelworks.models.base import LanguageModel


class Desk:
    """A scheduler and what its requests have said."""

    def __init__(
        self, model: LanguageModel, *, blocks: int = 64, block_size: int = 4, speculation: Any = None, **changes: Any
    ) -> None:
        self.model, self.speculation = model, speculation
        one = TorchRunner(model, kv_bytes=1 << 20, block_size=1)
        runner = TorchRunner(model, kv_bytes=((1 << 20) // one.num_blocks) * block_size * blocks, block_size=block_size)
        assert runner.num_blocks >= blocks
        runner.num_blocks = blocks
        self.runner = runner
        self.steps: list[list[int]] = []  # for each step, how many tokens it computed of each sequence
        self.scheduler = Scheduler(
            self,  # type: ignore[arg-type]
            **{"max_running": 8, "max_step_tokens": 16, "prefix_cache": True} | changes,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def step(self, ids_N: Any, starts_B1: Any, *rest: Any) -> Any:
        self.steps.append(np.diff(starts_B1).tolist())
        return self.runner.step(ids_N, starts_B1, *rest)

    def ask(self, prompt: list[int], sampling: Sampling) -> Request:
        request = ask(self.model, self.scheduler.pool, prompt, sampling, speculation=self.speculation)
        self.scheduler.add(request)
        return request

    def finish(self) -> None:
        for _ in range(5000):
            if not (self.scheduler.queue or self.scheduler.running):
                return
            self.scheduler.step()
        raise AssertionError("the scheduler does not come to an end")


def said(request: Request) -> list[Piece]:
    """What a request has said and nobody has read."""
    pieces = []
    while isinstance(found := request.feed.read(), Piece):
        pieces.append(found)
    return pieces


def ids(pieces: list[Piece]) -> tuple[int, ...]:
    return tuple(index for piece in pieces for index in piece.ids)


# --- tokens -----------------------------------------------------------------------------------------------------------

BEGINNINGS = ([], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 9, 9])


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, list[int], Sampling, int | None]]:
    """Requests: at which step they come, what they ask, and after how many steps they are cancelled, if at all."""
    listed = []
    for _ in range(draw(st.integers(1, 7))):
        prompt = [*draw(st.sampled_from(BEGINNINGS)), *draw(st.lists(st.integers(0, 11), min_size=1, max_size=6))]
        sampling = Sampling(
            max_tokens=draw(st.integers(1, 12)),
            temperature=draw(st.sampled_from([0, 0.7, 1.5])),
            top_p=draw(st.sampled_from([1.0, 0.8])),
            repetition_penalty=draw(st.sampled_from([1.0, 1.3])),
            seed=draw(st.integers(0, 3)),
        )
        listed.append((draw(st.integers(0, 12)), prompt, sampling, draw(st.none() | st.integers(0, 12))))
    return listed


@given(
    listed=arrivals(),
    block_size=st.integers(1, 5),
    spare=st.integers(0, 12),
    max_running=st.integers(1, 4),
    more_tokens=st.integers(0, 12),
    prefix_cache=st.booleans(),
    speculation=st.sampled_from([None, prompt_lookup(least=1)]),
)
@settings(max_examples=80)
def test_an_answer_is_the_same_in_any_company(
    recall: LanguageModel,
    listed: list[tuple[int, list[int], Sampling, int | None]],
    block_size: int,
    spare: int,
    max_running: int,
    more_tokens: int,
    prefix_cache: bool,
    speculation: Any,
) -> None:
    """efficient.md 6 and 10: any order of arrival, cancellations, chunks, and pools too small for all (preemption)."""
    least = max(-(-(len(prompt) + (sampling.max_tokens or 0)) // block_size) for _, prompt, sampling, _ in listed)
    desk = Desk(
        recall,
        blocks=least + spare // block_size,
        block_size=block_size,
        max_running=max_running,
        max_step_tokens=max_running + more_tokens,
        prefix_cache=prefix_cache,
        speculation=speculation,
    )
    requests: dict[int, Request] = {}
    for now in range(26):
        for at, (arrival, prompt, sampling, patience) in enumerate(listed):
            if arrival == now:
                requests[at] = desk.ask(prompt, sampling)
            if patience is not None and arrival + patience == now:
                requests[at].feed.cancelled = True
        desk.scheduler.step()
    desk.finish()
    for at, (_, prompt, sampling, _) in enumerate(listed):
        pieces = said(requests[at])
        (expected,) = complete(recall, prompt, sampling)
        if pieces[-1].finish_reason == "cancelled":
            assert ids(pieces) == expected.ids[: len(ids(pieces))]
        else:
            assert (ids(pieces), pieces[-1].finish_reason) == (expected.ids, expected.finish_reason)
            logprobs = tuple(value for piece in pieces for value in piece.logprobs)
            assert logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    counts, pool = desk.scheduler.counts, desk.scheduler.pool
    assert counts.finished + counts.cancelled == counts.requests == len(listed)
    assert (pool.used, pool.free + pool.cached) == (0, pool.num_blocks)
    assert all(sum(step) <= max_running + more_tokens for step in desk.steps)


@pytest.mark.parametrize("speculation", [None, prompt_lookup()])
def test_real_models_with_preemption_equal_generate(any_model: LanguageModel, speculation: Any) -> None:
    desk = Desk(any_model, blocks=14, block_size=4, max_running=5, max_step_tokens=9, speculation=speculation)
    samplings = [Sampling(max_tokens=20), Sampling(max_tokens=20, temperature=1, top_p=0.9, seed=5)]
    prompts = [[*range(40, 40 + 3 * n), *range(40, 43)] for n in range(1, 6)]
    requests = [desk.ask(prompt, samplings[at % 2]) for at, prompt in enumerate(prompts)]
    desk.finish()
    assert desk.scheduler.counts.preempted > 0
    for at, (prompt, request) in enumerate(zip(prompts, requests)):
        assert ids(said(request)) == complete(any_model, prompt, samplings[at % 2])[0].ids


@pytest.mark.parametrize("speculation", [None, prompt_lookup(least=1)])
@pytest.mark.parametrize("max_step_tokens", [4, 64])
def test_constrained_answers_equal_generate(model: LanguageModel, speculation: Any, max_step_tokens: int) -> None:
    """Forced tokens are computed together with the one before them, as many as a step has room for."""
    grammar = Grammar.json_schema(
        {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    )
    samplings = [
        Sampling(grammar=grammar, max_tokens=30),
        Sampling(grammar=grammar, temperature=1.5, seed=2, max_tokens=30, logprobs=1),
        Sampling(grammar=Grammar.regex("ab*c"), temperature=1.5, seed=2, max_tokens=4),
        Sampling(max_tokens=20),
    ]
    desk = Desk(model, max_running=4, max_step_tokens=max_step_tokens, speculation=speculation)
    requests = [desk.ask([*b"colour:"], sampling) for sampling in samplings]
    desk.finish()
    for request, sampling in zip(requests, samplings):
        pieces = said(request)
        (expected,) = complete(model, [*b"colour:"], sampling)
        assert (ids(pieces), pieces[-1].finish_reason) == (expected.ids, expected.finish_reason)
        assert "".join(piece.text for piece in pieces) == expected.text
        logprobs = tuple(value for piece in pieces for value in piece.logprobs)
        assert logprobs == pytest.approx(expected.logprobs, abs=1e-3)
    if max_step_tokens == 64:
        assert max(map(max, desk.steps)) >= len('"colour":"')
    if speculation is None:
        assert desk.scheduler.counts.drafted_tokens == 0


def test_the_native_program_is_the_same_in_any_company(bare: LanguageModel, native_kernels: None) -> None:
    """efficient.md 10: log-probabilities too, to the last bit, through chunks, shared prefixes and preemption."""
    prompts = [[*range(40, 40 + at % 3), *range(90, 98 - at), at] for at in range(7)]
    samplings = [Sampling(max_tokens=36), Sampling(max_tokens=36, temperature=1, seed=3)]

    def scheduler(blocks: int, **settings: Any) -> Scheduler:
        _, runner = open_model(bare, weights="q8", kv_bytes=1 << 20)
        runner.num_blocks = blocks  # type: ignore[misc]
        return Scheduler(runner, **settings)

    def answers(scheduler: Scheduler, speculation: Any, *, together: bool) -> list[Any]:
        got = []
        for at, prompt in enumerate(prompts):
            request = ask(bare, scheduler.pool, prompt, samplings[at % 2], speculation=speculation)
            scheduler.add(request)
            got.append(request)
            while not together and scheduler.running + list(scheduler.queue):
                scheduler.step()
        while scheduler.running or scheduler.queue:
            scheduler.step()
        pieces = [join(said(request)) for request in got]
        return [(piece.ids, piece.logprobs) for piece in pieces]

    alone = scheduler(9, max_running=1, max_step_tokens=512, prefix_cache=False)
    crowded = scheduler(3, max_running=4, max_step_tokens=6, prefix_cache=True)
    assert answers(crowded, prompt_lookup(least=1), together=True) == answers(alone, None, together=False)
    assert crowded.counts.preempted > 0


# --- who gets what ----------------------------------------------------------------------------------------------------


def test_a_long_prompt_does_not_stall_those_that_decode(recall: LanguageModel) -> None:
    desk = Desk(recall, max_step_tokens=10, blocks=200)
    short = desk.ask([1, 2], Sampling(max_tokens=20, logit_bias={12: -np.inf}))
    desk.scheduler.step()
    desk.ask([3] * 90, Sampling(max_tokens=1))
    for _ in range(8):
        before = len(short.tokens)
        desk.scheduler.step()
        assert len(short.tokens) == before + 1
    assert desk.steps[1:9] == [[1, 9]] * 8


def test_a_short_prompt_passes_a_long_one_that_still_gets_half(recall: LanguageModel) -> None:
    desk = Desk(recall, max_step_tokens=10, blocks=200, prefix_cache=False)
    desk.ask([3] * 60, Sampling(max_tokens=1))
    desk.ask([4] * 8, Sampling(max_tokens=1))
    desk.scheduler.step()
    desk.scheduler.step()
    assert desk.steps == [[5, 5], [7, 3]]
    assert desk.scheduler.counts.finished == 1


@pytest.mark.parametrize(
    ("pending", "budget", "expected"),
    [
        ([], 9, []),
        ([5], 9, [5]),
        ([50], 9, [9]),
        ([4, 4, 4], 9, [4, 4, 1]),
        ([50, 50], 9, [9, 0]),
        ([50, 3, 50], 8, [5, 3, 0]),
        ([50, 9, 2], 8, [4, 2, 2]),
        ([1, 1], 1, [1, 0]),
    ],
)
def test_shares(pending: list[int], budget: int, expected: list[int]) -> None:
    assert _shares(pending, budget) == expected


def test_the_youngest_is_preempted_and_comes_back_first(recall: LanguageModel) -> None:
    desk = Desk(recall, blocks=6, block_size=4, prefix_cache=False, max_running=3)
    sampling = Sampling(max_tokens=14, logit_bias={12: -np.inf})
    first, second, third = (desk.ask([n, n], sampling) for n in range(3))
    while desk.scheduler.counts.preempted == 0:
        desk.scheduler.step()
    assert first in desk.scheduler.running
    assert third in desk.scheduler.queue
    desk.finish()
    assert [ids(said(request)) for request in (first, second, third)] == [
        complete(recall, [n, n], sampling)[0].ids for n in range(3)
    ]


def test_nobody_overtakes_the_head_of_the_queue(recall: LanguageModel) -> None:
    desk = Desk(recall, blocks=8, block_size=4)
    sampling = Sampling(max_tokens=4, logit_bias={12: -np.inf})
    desk.ask([1] * 20, sampling)
    desk.scheduler.step()
    large, small = desk.ask([2] * 20, sampling), desk.ask([3], sampling)
    desk.scheduler.step()
    assert list(desk.scheduler.queue) == [large, small]


# --- the prefix cache -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [7, 8, 9])
def test_the_same_prompt_twice_gives_the_same_answer(any_model: LanguageModel, length: int) -> None:
    """efficient.md 6: at k blocks and one token off; the blocks that were found are as before, byte for byte."""
    desk = Desk(any_model, block_size=4)
    prompt = list(range(30, 30 + length))
    first = desk.ask(prompt, Sampling(max_tokens=12))
    desk.finish()
    before = [pool.clone() for layer in desk.runner._pools for pool in layer]
    found = [desk.scheduler.pool.find(key) for key in first.pages._keys]
    second = desk.ask(prompt, Sampling(max_tokens=12))
    desk.finish()
    assert ids(said(first)) == ids(said(second)) == complete(any_model, prompt, Sampling(max_tokens=12))[0].ids
    assert (first.feed.cached_tokens, second.feed.cached_tokens) == (0, min(length // 4 * 4, length - 1))
    after = [pool for layer in desk.runner._pools for pool in layer]
    assert len([block for block in found if block is not None]) >= 4
    for old, new in zip(before, after):
        for block in found:
            if block is not None:
                assert (old.view(-1, 4, *old.shape[1:])[block] == new.view(-1, 4, *new.shape[1:])[block]).all()


def test_prompts_that_arrive_together_share_what_the_first_computes(recall: LanguageModel) -> None:
    desk = Desk(recall, max_step_tokens=16, block_size=4)
    prompts = [[*range(8), *range(8), last] for last in (1, 2, 3)]
    requests = [desk.ask(prompt, Sampling(max_tokens=3)) for prompt in prompts]
    desk.finish()
    assert sum(request.feed.cached_tokens for request in requests) >= 16
    assert [ids(said(request)) for request in requests] == [
        complete(recall, prompt, Sampling(max_tokens=3))[0].ids for prompt in prompts
    ]


def test_an_answer_is_found_when_the_conversation_goes_on(recall: LanguageModel) -> None:
    desk = Desk(recall, block_size=4)
    first = desk.ask([1, 2, 3], Sampling(max_tokens=10, logit_bias={12: -np.inf}))
    desk.finish()
    second = desk.ask([*first.tokens, 5, 6], Sampling(max_tokens=2))
    desk.finish()
    assert second.feed.cached_tokens == 12


def test_the_cache_off(recall: LanguageModel) -> None:
    desk = Desk(recall, prefix_cache=False)
    requests = [desk.ask([1] * 9, Sampling(max_tokens=2)) for _ in range(2)]
    desk.finish()
    assert [request.feed.cached_tokens for request in requests] == [0, 0]
    assert desk.scheduler.pool.cached == 0


# --- how requests end -------------------------------------------------------------------------------------------------


def test_cancelled_requests_leave_at_the_next_step(recall: LanguageModel) -> None:
    desk = Desk(recall, max_running=1)
    running, waiting = (desk.ask([n, n], Sampling(max_tokens=50, logit_bias={12: -np.inf})) for n in (1, 2))
    desk.scheduler.step()
    running.feed.cancelled = waiting.feed.cancelled = True
    desk.scheduler.step()
    assert [piece.finish_reason for piece in said(running)][-1] == "cancelled"
    assert [piece.ids for piece in said(waiting)] == [()]
    assert (desk.scheduler.pool.used, desk.scheduler.counts.cancelled) == (0, 2)


def test_an_error_in_sampling_ends_that_request_alone(recall: LanguageModel) -> None:
    desk = Desk(recall)
    unlucky = desk.ask([1, 2], Sampling(logit_bias=dict.fromkeys(range(13), -np.inf), max_tokens=4))
    other = desk.ask([3, 4], Sampling(max_tokens=4))
    desk.finish()
    with pytest.raises(SamplingError, match="no token can be chosen"):
        said(unlucky)
    assert ids(said(other)) == complete(recall, [3, 4], Sampling(max_tokens=4))[0].ids
    assert (desk.scheduler.counts.failed, desk.scheduler.counts.finished, desk.scheduler.pool.used) == (1, 1, 0)


def test_an_error_in_a_drafter_ends_that_request_alone(recall: LanguageModel) -> None:
    class Broken:
        def propose(self, tokens: Any, limit: int) -> Proposal:
            raise LookupError("no idea")

    class Idle:
        def propose(self, tokens: Any, limit: int) -> Proposal:
            return Proposal()

    desk = Desk(recall, speculation=lambda _, sampling: Broken() if sampling.seed == 1 else Idle())
    sampling = Sampling(max_tokens=4, logit_bias={12: -np.inf})
    unlucky = desk.ask([1, 2], Sampling(max_tokens=4, seed=1, logit_bias={12: -np.inf}))
    other = desk.ask([3, 4], sampling)
    desk.finish()
    with pytest.raises(LookupError, match="no idea"):
        said(unlucky)
    assert ids(said(other)) == complete(recall, [3, 4], sampling)[0].ids


@pytest.mark.parametrize("wrong", [(1,) * 17, (13,), (-1,)])
def test_a_drafter_that_does_not_keep_to_the_rules_harms_nobody_else(recall: LanguageModel, wrong: Any) -> None:
    class Wild:
        def propose(self, tokens: Any, limit: int) -> Proposal:
            return Proposal(wrong)

    desk = Desk(recall, speculation=lambda *_: Wild())
    request = desk.ask([1, 2], Sampling(max_tokens=40, logit_bias={12: -np.inf}))
    desk.finish()
    with pytest.raises(ValueError, match="a drafter proposed"):
        said(request)
    assert desk.scheduler.pool.used == 0


def test_a_failed_copy_loses_no_block(recall: LanguageModel) -> None:
    desk = Desk(recall, block_size=4)
    desk.ask([1] * 8, Sampling(max_tokens=1))
    desk.finish()
    desk.scheduler.pool.copy_block = lambda source, target: 1 / 0
    desk.ask([1] * 8, Sampling(max_tokens=1))
    with pytest.raises(ZeroDivisionError):
        desk.scheduler.step()
    desk.scheduler.fail(ZeroDivisionError())
    assert desk.scheduler.pool.free == 64


def test_a_failed_step_ends_all_and_leaves_a_sound_scheduler(recall: LanguageModel) -> None:
    desk = Desk(recall, max_running=2)
    desk.ask([1] * 9, Sampling(max_tokens=1))
    desk.finish()
    lost = [desk.ask([n] * 5, Sampling(max_tokens=4, logit_bias={12: -np.inf})) for n in range(3)]
    desk.scheduler.step()
    desk.scheduler.fail(MemoryError("no more"))
    for request in lost:
        with pytest.raises(RuntimeError, match=r"step failed.*no more") as caught:
            said(request)
        assert isinstance(caught.value.__cause__, MemoryError)
    assert desk.scheduler.pool.free == 64
    again = desk.ask([1] * 9, Sampling(max_tokens=4))
    desk.finish()
    assert again.feed.cached_tokens == 0
    assert ids(said(again)) == complete(recall, [1] * 9, Sampling(max_tokens=4))[0].ids


# --- limits -----------------------------------------------------------------------------------------------------------


def test_numbers_that_cannot_work(recall: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="max_running is 0"):
        Desk(recall, max_running=0)
    with pytest.raises(ConfigError, match="max_step_tokens=3 is less than max_running=8"):
        Desk(recall, max_step_tokens=3)


def test_what_never_fits_is_refused_at_once(recall: LanguageModel) -> None:
    desk = Desk(recall, blocks=3, block_size=4)
    with pytest.raises(ContextLengthError, match=r"10 tokens.*may have 3.*together 13.*holds 12"):
        desk.ask([1] * 10, Sampling(max_tokens=3))
    with pytest.raises(ContextLengthError, match="context is 4096"):
        desk.ask([1] * 10, Sampling(max_tokens=5000))
    longest = desk.ask([1] * 10, Sampling(max_tokens=None, logit_bias={12: -np.inf}))
    desk.finish()
    assert len(longest.tokens) == 12
    with pytest.raises(ContextLengthError):
        desk.ask([1] * 12, Sampling(max_tokens=None))


def test_a_prompt_of_whole_blocks_fills_the_pool_to_the_last(recall: LanguageModel) -> None:
    """The second run finds all of it, and still has room for the copy of the block that it writes to."""
    desk = Desk(recall, blocks=3, block_size=4)
    requests = []
    for _ in range(2):
        requests.append(desk.ask([1, 2, 3, 4, 5, 6, 7, 8], Sampling(max_tokens=4, logit_bias={12: -np.inf})))
        desk.finish()
    assert requests[1].feed.cached_tokens == 7
    assert ids(said(requests[0])) == ids(said(requests[1]))


def test_nothing_to_read_yet_is_a_future(recall: LanguageModel) -> None:
    desk = Desk(recall)
    request = desk.ask([1], Sampling(max_tokens=1))
    found = request.feed.read()
    assert isinstance(found, Future)
    assert not found.done()
    desk.finish()
    assert found.done()
