"""A reader's side of a request: nothing is lost, nobody waits for a reader, any loop and any thread will do."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from modelworks.engine.handle import Feed, Handle, join, wake
from modelworks.engine.row import Piece


def piece(*ids: int, reason: str | None = None) -> Piece:
    logprobs = tuple(-float(index) for index in ids)
    tops = tuple({index: -float(index)} for index in ids)
    return Piece(0, ids, "".join(map(chr, ids)), logprobs, tops, reason)  # type: ignore[arg-type]


def write(feed: Feed, pieces: Sequence[Piece], pause: float = 0.002) -> threading.Thread:
    def run() -> None:
        for each in pieces:
            time.sleep(pause)
            feed.push(each)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


ANSWER = [piece(97), piece(98, 99), piece(100, reason="stop")]


async def collected(handle: Handle) -> list[Piece]:
    return [each async for each in handle]


def test_joined_pieces_say_what_their_parts_said() -> None:
    assert join(ANSWER) == piece(97, 98, 99, 100, reason="stop")
    assert join(ANSWER[:1]) is ANSWER[0]


def test_a_reader_that_keeps_up_gets_every_piece() -> None:
    feed = Feed(1)
    thread = write(feed, ANSWER, pause=0.05)
    assert list(Handle(feed)) == ANSWER
    thread.join()


def test_a_slow_reader_gets_what_it_missed_as_one_piece() -> None:
    feed = Feed(1)
    for each in ANSWER:
        feed.push(each)
    handle = Handle(feed)
    assert list(handle) == [join(ANSWER)]
    assert list(handle) == []


def test_reading_can_go_on_after_a_break() -> None:
    feed = Feed(1)
    handle = Handle(feed)
    feed.push(ANSWER[0])
    for each in handle:
        assert each == ANSWER[0]
        break
    assert not feed.cancelled
    feed.push(ANSWER[1])
    feed.push(ANSWER[2])
    assert list(handle) == [join(ANSWER[1:])]


def test_an_error_comes_after_what_was_said_and_stays() -> None:
    feed = Feed(1)
    handle = Handle(feed)
    feed.push(ANSWER[0])
    feed.fail(LookupError("gone"))
    pieces = iter(handle)
    assert next(pieces) == ANSWER[0]
    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            next(iter(handle))


def test_an_error_wakes_a_reader() -> None:
    feed = Feed(1)
    threading.Timer(0.02, feed.fail, [LookupError("gone")]).start()
    with pytest.raises(LookupError):
        list(Handle(feed))


def test_async_readers_of_several_loops() -> None:
    feeds = [Feed(1) for _ in range(4)]
    got: dict[int, list[Piece]] = {}

    def read(at: int) -> None:
        got[at] = asyncio.run(collected(Handle(feeds[at])))

    readers = [threading.Thread(target=read, args=[at]) for at in range(4)]
    writers = [write(feed, ANSWER) for feed in feeds]
    for thread in readers:
        thread.start()
    for thread in (*readers, *writers):
        thread.join()
    assert [join(got[at]) for at in range(4)] == [join(ANSWER)] * 4


def test_a_loop_goes_on_while_it_waits() -> None:
    async def run() -> int:
        feed = Feed(1)
        reading = asyncio.create_task(collected(Handle(feed)))
        beats = 0
        while not reading.done():
            await asyncio.sleep(0.001)
            beats += 1
            if beats == 20:
                feed.push(ANSWER[2])
        return beats

    assert asyncio.run(run()) >= 20


def test_a_reader_that_was_cancelled_costs_no_piece() -> None:
    """A task may give up waiting, a timeout say; another goes on where it was, and the writer notices nothing."""

    async def run() -> list[Piece]:
        feed = Feed(1)
        handle = Handle(feed)
        for _ in range(100):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(aiter(handle)), 0.0005)
        assert len(feed._waiting) <= 1
        for each in ANSWER:
            feed.push(each)
        return await collected(handle)

    assert asyncio.run(run()) == [join(ANSWER)]


def test_a_closed_loop_does_not_harm_the_writer() -> None:
    feed = Feed(1)
    handle = Handle(feed)

    async def leave() -> None:
        waiting = asyncio.ensure_future(anext(aiter(handle)))
        await asyncio.sleep(0.005)
        waiting.cancel()

    asyncio.run(leave())
    for each in ANSWER:
        feed.push(each)
    assert list(handle) == [join(ANSWER)]


def test_a_handle_that_nobody_holds_is_cancelled() -> None:
    feed = Feed(1)
    handle = Handle(feed)
    pieces = iter(handle)
    feed.push(ANSWER[0])
    next(pieces)
    del handle
    gc.collect()
    assert not feed.cancelled  # the iteration still holds it
    del pieces
    gc.collect()
    assert feed.cancelled


def test_counts_come_from_the_feed() -> None:
    feed = Feed(12)
    handle = Handle(feed)
    feed.cached_tokens = 8
    assert (handle.prompt_tokens, handle.cached_tokens) == (12, 8)
    handle.cancel()
    assert feed.cancelled


def test_readers_of_one_loop_are_woken_by_one_call() -> None:
    """Each call gives the loop's thread the interpreter, and the engine's thread waits for it."""

    async def all_read() -> tuple[int, list[Piece]]:
        loop, calls = asyncio.get_running_loop(), []
        real = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args, **named: (calls.append(args), real(*args, **named))[1]  # type: ignore[method-assign,assignment]
        feeds = [Feed(1) for _ in range(8)]
        waiting: list[Any] = []
        for feed in feeds:
            feed.wake = waiting.extend
        tasks = [asyncio.ensure_future(anext(aiter(Handle(feed)))) for feed in feeds]
        await asyncio.sleep(0)
        tasks[0].cancel()
        for feed in feeds:
            feed.push(ANSWER[0])
        wake(waiting)
        read = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(read[0], asyncio.CancelledError)
        return len(calls), read[1:]

    calls, read = asyncio.run(all_read())
    assert calls == 1
    assert read == [ANSWER[0]] * 7


def test_a_loop_that_is_closed_disturbs_no_other_reader() -> None:
    gone = asyncio.new_event_loop()
    lost = gone.create_future()
    gone.close()
    here: Future[None] = Future()
    wake([lost, here])
    assert here.done()
