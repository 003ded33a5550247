"""The engine's pieces as what an API speaks of: text, tool calls, log-probabilities, a reason for the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from modelworks.engine.handle import Handle
from modelworks.engine.row import Piece, Prompt
from modelworks.engine.sample import Sampling
from modelworks.serve.errors import ApiError
from modelworks.serve.service import Service
from modelworks.serve.tools import NO_TOOLS, Tools
from modelworks.text.tool_calls import ToolCall

Reason: TypeAlias = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer, and what the model thought of it and of others in its place."""

    id: int
    logprob: float
    top: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Part:
    """What came next of answer `index`."""

    index: int
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    tokens: tuple[Token, ...] = ()
    """Those that the model produced; a token that only ends the answer is not among them."""
    reason: Reason | None = None
    """On the answer's last part."""


class Answers:
    """The answers to one request, which are generated beside each other. Iterate once; close it to end the work."""

    def __init__(self, service: Service, handles: Sequence[Handle], prompts: int, tools: Tools, began: float) -> None:
        """`began`: when the request came, by `time.perf_counter`."""
        self._service = service
        self._handles = handles
        self._parsers = [tools.parser(service.tokenizer) for _ in handles]
        self._called = [False] * len(handles)
        self._began = began
        self._last: list[float | None] = [None] * len(handles)
        self._first = handles[:: len(handles) // prompts]  # of each prompt's answers
        self.prompt_tokens = sum(handle.prompt_tokens for handle in self._first)
        self.completion_tokens = 0

    @property
    def cached_tokens(self) -> int:
        """How many of the prompts' tokens the prefix cache had before this request; known once the answers are."""
        return sum(handle.cached_tokens for handle in self._first)

    def cancel(self) -> None:
        for handle in self._handles:
            handle.cancel()

    async def __aiter__(self) -> AsyncIterator[Part]:
        try:
            async with aclosing(_merged(self._handles)) as pieces:
                async for index, piece in pieces:
                    yield self._part(index, piece)
        finally:
            self.cancel()

    def _part(self, index: int, piece: Piece) -> Part:
        self._count(index, piece)
        if piece.finish_reason not in (None, "stop", "length"):
            raise ApiError(503, "the server stopped before the answer was complete", code="stopping", retry_after=5)
        text, calls = piece.text, list[ToolCall]()
        if (parser := self._parsers[index]) is not None:
            found = parser.push(text) + (parser.flush() if piece.finish_reason else [])
            text = "".join(each for each in found if isinstance(each, str))
            calls = [each for each in found if isinstance(each, ToolCall)]
            self._called[index] = self._called[index] or bool(calls)
        reason: Reason | None = piece.finish_reason
        if reason == "stop" and self._called[index]:
            reason = "tool_calls"
        return Part(index, text, tuple(calls), self._tokens(piece), reason)

    def _tokens(self, piece: Piece) -> tuple[Token, ...]:
        tops = piece.top_logprobs or ({},) * len(piece.ids)
        tokens = tuple(Token(*each) for each in zip(piece.ids, piece.logprobs, tops, strict=True))
        ended = piece.finish_reason == "stop" and piece.ids and piece.ids[-1] in self._service.tokenizer.stop_ids
        return tokens[:-1] if ended else tokens

    def _count(self, index: int, piece: Piece) -> None:
        count = len(piece.ids)
        self.completion_tokens += count
        if not count:
            return
        now = time.perf_counter()
        last, self._last[index] = self._last[index], now
        if last is None:
            self._service.metrics.first_token.observe(now - self._began)
        else:
            self._service.metrics.token.observe((now - last) / count, count)


async def _merged(handles: Sequence[Handle]) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of several answers, in the order that they come."""
    if len(handles) == 1:
        async for only in handles[0]:
            yield 0, only
        return
    iterators = [aiter(handle) for handle in handles]
    waiting = {asyncio.ensure_future(_next(iterator)): index for index, iterator in enumerate(iterators)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index = waiting.pop(task)
                if (piece := task.result()) is not None:
                    yield index, piece
                    waiting[asyncio.ensure_future(_next(iterators[index]))] = index
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _next(iterator: AsyncIterator[Piece]) -> Piece | None:
    return await anext(iterator, None)


async def start(
    service: Service,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    count: int = 1,
    tools: Tools = NO_TOOLS,
    template_tools: Sequence[Mapping[str, Any]] | None = None,
    texts: Sequence[str] = (),
    adapter: str | None = None,
) -> Answers:
    """Hand prompts to the engine, each `count` times; answer `count * p + i` is the `i`-th to prompt `p`.

    `texts` is what of the prompts is text. Reading a prompt takes time, so it is done beside the event loop. Raises
    what `Engine.submit` raises.
    """
    if count * len(prompts) > service.limits.choices:
        raise ApiError(
            400,
            f"the request asks for {count * len(prompts)} answers, at most {service.limits.choices} are given at once",
            param="n",
            code="invalid_value",
        )

    began = time.perf_counter()

    def submit() -> list[Handle]:
        handles: list[Handle] = []
        service.check_length(texts)
        try:
            for prompt in prompts:
                for index in range(count):
                    asked = _seeded(sampling, index)
                    handles.append(service.engine.submit(prompt, asked, tools=template_tools, adapter=adapter))
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise
        return handles

    return Answers(service, await asyncio.to_thread(submit), len(prompts), tools, began)


def _seeded(sampling: Sampling, index: int) -> Sampling:
    """The sampling of a prompt's `index`-th answer: with one seed for all they would be one answer, many times."""
    if sampling.seed is None or index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % 2**63)
