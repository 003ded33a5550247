"""What every step computes: many requests over one runner, a few tokens of each at a time (continuous batching).

A step begins between two tokens of all requests. Those that were cancelled leave. Those that wait come in, first come
first served, while blocks are left for what is known of them. Each that decodes gets its next token computed, and what
is left of the step's tokens goes to prompts, in chunks (Yu et al. 2022, "Orca"; Agrawal et al. 2023, arXiv:2308.16369).
Where blocks run out, the youngest request gives its own back and is computed again later. None of this shows in an
answer: its tokens are those that it gets alone, and over a torch model those of `generate`.

Shapes: N new tokens in a step, B sequences, M blocks of the longest, R rows of logits, L proposed tokens, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.engine.adapters import Loaded
from modelworks.engine.handle import Feed, Waiting, join, wake
from modelworks.engine.paged import BlockPool, OutOfBlocksError, Pages
from modelworks.engine.row import Piece, Prompt, Row
from modelworks.engine.runner import Runner
from modelworks.engine.sample import Sampling
from modelworks.engine.speculate import Drafter, Proposal, Speculation, SpeculativeSampler
from modelworks.models.base import LanguageModel

_MOST_DRAFTED = 16
_CANCELLED = Piece(0, (), "", (), (), "cancelled")


@dataclass(slots=True)
class Counts:
    """What a scheduler has done since it began."""

    requests: int = 0
    """Those accepted; those that ended are the sum of the next three."""
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    preempted: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those that the prefix cache had."""
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Of the drafted tokens, those that became part of an answer."""


@dataclass(eq=False, slots=True)
class Request:
    """A prompt and its answer so far."""

    row: Row
    tokens: list[int]
    """Prompt and answer so far; those from `pages.held` on are not in the cache yet."""
    pages: Pages
    feed: Feed
    drafter: Drafter | None
    vocab_size: int
    adapter: Loaded | None = None
    computed: int = 0
    """Tokens of the prompt that steps have computed before the answer's first token."""
    answered: bool = False
    decoding: bool = False
    """Whether all its tokens but the newest are in the cache: it decodes."""

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.pages.held

    def propose(self, limit: int) -> Proposal:
        """At most `limit` tokens to compute with the newest: what a grammar forces, or else a drafter's guesses."""
        forced = self.row.forced
        if forced or self.drafter is None:
            return Proposal(tuple(islice(forced, min(limit, self.row.ready - 1))))
        limit = min(limit, self.row.left - 1, _MOST_DRAFTED)
        proposal = self.drafter.propose(self.tokens, limit) if limit > 0 else Proposal()
        if len(proposal.ids) > max(limit, 0) or not all(0 <= index < self.vocab_size for index in proposal.ids):
            raise ValueError(
                f"a drafter proposed {proposal.ids}: at most {limit} ids below {self.vocab_size} are wanted"
            )
        return proposal

    def choose(self, logits_V: NDArray[np.float32], drawn: tuple[int, Tensor] | None) -> Piece:
        """The next token, perhaps the one that a drafter has `drawn` (from the probabilities q_V)."""
        if isinstance(sampler := self.row.sampler, SpeculativeSampler):
            sampler.proposed = drawn
        piece = self.row.take(torch.from_numpy(logits_V))
        self.tokens.extend(piece.ids)
        return piece


def ask(
    model: LanguageModel,
    pool: BlockPool,
    prompt: Prompt,
    sampling: Sampling,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    speculation: Speculation | None = None,
    adapter: Loaded | None = None,
) -> Request:
    """A request for a scheduler with that pool. Raises what `generate` does, and `ContextLengthError` for the pool."""
    row = Row(model, 0, prompt, sampling, tools)
    prompt_tokens, capacity = len(row.prompt_ids), pool.num_blocks * pool.block_size
    if sampling.max_tokens is None:
        row.left = max(1, min(row.left, capacity - prompt_tokens))
    if prompt_tokens + row.left > capacity:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens and the answer may have {row.left}, together "
            f"{prompt_tokens + row.left}; the engine's cache holds {capacity}: raise kv_bytes or lower max_tokens"
        )
    drafter = None
    if speculation is not None:
        drafter = speculation(model, sampling)
        row.sampler = SpeculativeSampler(sampling, row.prompt_ids, model.config.vocab_size)
    pages = Pages(pool, b"" if adapter is None else adapter.digest)
    feed = Feed(prompt_tokens)
    return Request(row, list(row.prompt_ids), pages, feed, drafter, model.config.vocab_size, adapter)


@dataclass(slots=True)
class _Slice:
    """What a step computes of one request: its next `count` tokens, then what is proposed."""

    request: Request
    count: int
    proposal: Proposal = field(default_factory=Proposal)
    guessed: bool = False
    """Whether the proposal is a drafter's, or else a grammar's, which is certain."""

    @property
    def rows(self) -> int:
        """How many logits are wanted: none before the end of what is known."""
        return 1 + len(self.proposal.ids) if self.count == self.request.pending else 0


class Scheduler:
    """Requests that wait or run, and the step that moves them on. It belongs to one thread.

    `max_running` requests share a step of at most `max_step_tokens` tokens. Raises `ConfigError` for numbers that
    cannot work.
    """

    def __init__(self, runner: Runner, *, max_running: int, max_step_tokens: int, prefix_cache: bool) -> None:
        if max_running < 1:
            raise ConfigError(f"max_running is {max_running}, expected at least 1")
        if max_step_tokens < max_running:
            raise ConfigError(
                f"max_step_tokens={max_step_tokens} is less than max_running={max_running}: "
                "each running request needs one token a step"
            )
        self.pool = BlockPool(runner.num_blocks, runner.block_size, runner.copy_block, prefix_cache=prefix_cache)
        self.counts = Counts()
        self.queue: deque[Request] = deque()
        self.running: list[Request] = []
        """The oldest first."""
        self._runner = runner
        self._max_running, self._max_step_tokens = max_running, max_step_tokens
        self._waiting: list[Waiting] = []
        """Readers of what the present step has said, who are woken together at its end."""

    def add(self, request: Request) -> None:
        """Queue a request, which must fit the pool when it is alone."""
        request.feed.wake = self._waiting.extend
        self.queue.append(request)
        self.counts.requests += 1

    def step(self) -> None:
        """Move every running request on by what one call of the runner computes.

        Raises what the runner raises; then `fail` must follow.
        """
        try:
            self._step()
        finally:
            self._wake()

    def _step(self) -> None:
        self._drop_cancelled()
        self._admit()
        slices = self._plan()
        if not slices:
            return
        logits_RV = self._runner.step(*_batch(slices))
        self.counts.steps += 1
        first = 0
        for part in slices:
            last = first + part.rows
            self._take(part, logits_RV[first:last])
            first = last

    def cancel(self) -> None:
        """End all requests."""
        for request in self._take_all():
            self._cancel(request)
        self._wake()

    def fail(self, error: Exception) -> None:
        """End all requests with an error, and forget what blocks hold: a step that failed may have left anything."""
        for request in self._take_all():
            self.counts.failed += 1
            lost = RuntimeError(f"the engine's step failed, and this request with it: {error}")
            lost.__cause__ = error
            request.feed.fail(lost)
        self._wake()
        self.pool.forget()

    def _wake(self) -> None:
        waiting = self._waiting.copy()
        self._waiting.clear()
        wake(waiting)

    # --- what a step computes -----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let requests in while there is room for what is known of them, and one more block for each that decodes."""
        while self.queue and len(self.running) < self._max_running:
            request = self.queue[0]
            request.pages.match(request.tokens)
            needed = request.pages.missing(len(request.tokens)) + len(self.running)
            if self.running and needed > self.pool.available:
                request.pages.release()
                return
            request.pages.reserve(len(request.tokens))
            self.running.append(self.queue.popleft())

    def _plan(self) -> list[_Slice]:
        """Which tokens of which requests to compute, decoding ones first, with blocks for them."""
        decoding = [request for request in self.running if request.decoding]
        filling = [request for request in self.running if not request.decoding]
        for request in filling:
            request.pages.match(request.tokens)  # what a neighbour computed since
        shares = _shares([request.pending for request in filling], self._max_step_tokens - len(decoding))
        slices = [_Slice(request, request.pending) for request in decoding]
        slices += [_Slice(request, share) for request, share in zip(filling, shares) if share]
        for part in sorted(slices, key=lambda part: self.running.index(part.request)):
            self._secure(part)
        slices = [part for part in slices if part.request in self.running]
        left = self._max_step_tokens - sum(part.count for part in slices)
        for part in list(slices):
            try:
                self._propose(part, left)
                left -= len(part.proposal.ids)
            except Exception as error:  # noqa: BLE001 - a drafter is one request's own
                slices.remove(part)
                self._fail(part.request, error)
        return slices

    def _secure(self, part: _Slice) -> None:
        """Blocks for a slice; the youngest requests give theirs up for it, itself at last."""
        pages = part.request.pages
        while part.request in self.running:
            try:
                pages.reserve(pages.held + part.count)
                return
            except OutOfBlocksError:
                self._preempt(self.running.pop())

    def _preempt(self, request: Request) -> None:
        """Back to the head of the queue, keeping what was said and how it was sampled."""
        request.pages.release()
        request.decoding = False
        self.counts.preempted += 1
        self.queue.appendleft(request)

    def _propose(self, part: _Slice, left: int) -> None:
        """Add to a slice tokens that may follow, where tokens of the step and free blocks are left."""
        request = part.request
        if not request.decoding:
            return
        proposal = request.propose(left)
        try:
            request.pages.reserve(len(request.tokens) + len(proposal.ids))
        except OutOfBlocksError:
            return  # one token has its place, more is not worth a preemption
        part.proposal, part.guessed = proposal, not request.row.forced

    def _take(self, part: _Slice, logits_RV: NDArray[np.float32]) -> None:
        """Keep what a step computed of a request; at the end of what is known of it, choose what follows."""
        request, proposal = part.request, part.proposal
        if not request.answered:
            request.computed += part.count
        if not len(logits_RV):
            request.pages.hold(request.tokens, request.pages.held + part.count)
            return
        self._answer(request)
        pieces: list[Piece] = []
        try:
            for at, logits_V in enumerate(logits_RV):
                pieces.append(request.choose(logits_V, proposal.drawn(at)))
                if request.row.finished or proposal.ids[at : at + 1] != pieces[-1].ids:
                    break
        except Exception as error:  # noqa: BLE001 - sampling is one request's own, and its reader's to handle
            if pieces:
                request.feed.push(join(pieces))
            self._fail(request, error)
            return
        self.counts.generated_tokens += len(pieces)
        if part.guessed:
            self.counts.drafted_tokens += len(proposal.ids)
            self.counts.accepted_tokens += sum(
                (guess,) == piece.ids for guess, piece in zip(proposal.ids, pieces, strict=False)
            )
        request.pages.hold(request.tokens, len(request.tokens) - 1)
        if request.row.finished:
            self._leave(request)
            self.counts.finished += 1
        request.feed.push(join(pieces))

    def _answer(self, request: Request) -> None:
        """A request is through its prompt: count, the first time, what of that the cache has saved."""
        request.decoding = True
        if not request.answered:
            request.answered = True
            request.feed.cached_tokens = max(0, request.feed.prompt_tokens - request.computed)
            self.counts.prompt_tokens += request.feed.prompt_tokens
            self.counts.cached_tokens += request.feed.cached_tokens

    # --- how requests end ---------------------------------------------------------------------------------------------

    def _leave(self, request: Request) -> None:
        self.running.remove(request)
        request.pages.release()

    def _drop_cancelled(self) -> None:
        dropped = [request for request in self.queue if request.feed.cancelled]
        for request in dropped:
            self.queue.remove(request)
        for request in [request for request in self.running if request.feed.cancelled]:
            self._leave(request)
            dropped.append(request)
        for request in dropped:
            self._cancel(request)

    def _cancel(self, request: Request) -> None:
        self.counts.cancelled += 1
        request.feed.push(_CANCELLED)

    def _fail(self, request: Request, error: Exception) -> None:
        self._leave(request)
        self.counts.failed += 1
        request.feed.fail(error)

    def _take_all(self) -> list[Request]:
        """All requests, which are the engine's no longer."""
        requests = [*self.running, *self.queue]
        self.queue.clear()
        self.running.clear()
        for request in requests:
            request.pages.release()
        return requests


def _shares(pending: Sequence[int], budget: int) -> list[int]:
    """How many tokens of each prompt a step computes, given how many are left of each, the oldest first.

    Half of the budget is the oldest's, so that none waits for ever. The rest goes to those that need least, so that a
    question does not wait behind a book.
    """
    shares = [0] * len(pending)
    shortest = sorted(range(len(pending)), key=pending.__getitem__)
    turns = [(at, budget) for at in shortest]
    if turns:
        turns.insert(0, (0, (budget + 1) // 2))
    for at, most in turns:
        given = min(pending[at] - shares[at], most, budget)
        shares[at] += given
        budget -= given
    return shares


def _batch(slices: Sequence[_Slice]) -> tuple[NDArray[np.int32], ...]:
    """A runner's arguments for the slices, in their order."""
    ids: list[int] = []
    starts, held, wanted = [0], list[int](), list[int]()
    table_BM = np.full((len(slices), max(len(part.request.pages.blocks) for part in slices)), -1, dtype=np.int32)
    for b, part in enumerate(slices):
        request = part.request
        first = request.pages.held
        ids += [*request.tokens[first : first + part.count], *part.proposal.ids]
        starts.append(len(ids))
        held.append(first)
        wanted += range(len(ids) - part.rows, len(ids))
        table_BM[b, : len(request.pages.blocks)] = request.pages.blocks
    ids_N, starts_B1, held_B, wanted_R = (np.array(each, dtype=np.int32) for each in (ids, starts, held, wanted))
    adapters = [part.request.adapter for part in slices]
    if not any(adapters):
        return ids_N, starts_B1, held_B, table_BM, wanted_R
    numbers = [-1 if each is None else each.number for each in adapters]
    return ids_N, starts_B1, held_B, table_BM, wanted_R, np.array(numbers, dtype=np.int32)
