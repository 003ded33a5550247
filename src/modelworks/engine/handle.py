"""One request of the engine as its caller holds it: pieces to iterate over, from a thread or from an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress

from modelworks.engine.row import Piece

Waiting = Future[None] | asyncio.Future[None]
"""Of a reader in a thread, or of one in an event loop: done when there may be something to read."""


def join(pieces: Sequence[Piece]) -> Piece:
    """Pieces of one answer that follow each other, as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        index=pieces[0].index,
        ids=tuple(token for piece in pieces for token in piece.ids),
        text="".join(piece.text for piece in pieces),
        logprobs=tuple(value for piece in pieces for value in piece.logprobs),
        top_logprobs=tuple(top for piece in pieces for top in piece.top_logprobs),
        finish_reason=pieces[-1].finish_reason,
    )


class Feed:
    """The engine's end of a handle: what was said and not yet read, and whether anyone still wants it.

    Writing never waits for a reader: what a slow one has missed, it gets as one piece. So it keeps at most one answer.
    Who writes to several may set their `wake` to something that keeps those who wait, and wake them all together.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self.wake: Callable[[Sequence[Waiting]], None] = wake
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.cancelled = False
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        self._waiting: list[Waiting] = []
        self._error: BaseException | None = None
        self._ended = False

    def push(self, piece: Piece) -> None:
        """Say more; a piece with a finish reason is the last."""
        with self._lock:
            self._pieces.append(piece)
            self._ended = piece.finish_reason is not None
            waiting = self._woken()
        self.wake(waiting)

    def fail(self, error: BaseException) -> None:
        """End with an error, which the reader gets after what was said before."""
        with self._lock:
            self._error, self._ended = error, True
            waiting = self._woken()
        self.wake(waiting)

    def read(self, new_future: Callable[[], Waiting] = Future) -> Piece | Waiting | None:
        """What there is to read, or None after the end, or else a future that is done when there may be something.

        Raises the error that the request ended with.
        """
        with self._lock:
            if self._pieces:
                pieces, self._pieces = self._pieces, []
                return join(pieces)
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            found = new_future()
            self._waiting = [future for future in self._waiting if not future.cancelled()] + [found]
            return found

    def _woken(self) -> list[Waiting]:
        waiting, self._waiting = self._waiting, []
        return waiting


def wake(waiting: Sequence[Waiting]) -> None:
    """Wake readers, not under a feed's lock: a future's callbacks run here.

    Each event loop is called once. A call writes to a socket, at which the loop's thread takes the interpreter from the
    one that calls: with a call for each of 16 streams, the engine's thread waits 16 times a step.
    """
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for future in waiting:
        if isinstance(future, asyncio.Future):
            loops.setdefault(future.get_loop(), []).append(future)
        elif future.set_running_or_notify_cancel():  # a reader whose task was cancelled waits no more
            future.set_result(None)
    for loop, futures in loops.items():
        with suppress(RuntimeError):  # the loop was closed, and with it all who waited there
            loop.call_soon_threadsafe(_set, futures)


def _set(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Handle:
    """A request that the engine works on: iterate over it for the pieces of its answer, `for` or `async for`.

    The last piece has a finish reason. An error that ended the request is raised from the iteration. A handle that
    nobody holds any more is cancelled, so a caller that goes away frees its slot. `prompt_tokens` is the prompt's
    length, and `cached_tokens` how many of those the prefix cache had, known with the first piece.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    @property
    def prompt_tokens(self) -> int:
        return self._feed.prompt_tokens

    @property
    def cached_tokens(self) -> int:
        return self._feed.cached_tokens

    def cancel(self) -> None:
        """End the request at the engine's next step; the iteration ends with the finish reason "cancelled"."""
        # No lock and no call: the collector may run `__del__` in any thread, in the midst of anything.
        self._feed.cancelled = True

    def __del__(self) -> None:
        self.cancel()

    def __iter__(self) -> Generator[Piece, None, None]:
        while (found := self._feed.read()) is not None:
            if isinstance(found, Piece):
                yield found
            elif isinstance(found, Future):
                found.result()

    async def __aiter__(self) -> AsyncGenerator[Piece, None]:
        new_future = asyncio.get_running_loop().create_future
        while (found := self._feed.read(new_future)) is not None:
            if isinstance(found, Piece):
                yield found
            elif isinstance(found, asyncio.Future):
                await found
