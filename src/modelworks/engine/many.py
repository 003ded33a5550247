"""Many prompts through an engine: whole answers in the prompts' order, with always enough of them on their way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from modelworks.engine.engine import Engine, QueueFullError
from modelworks.engine.handle import Handle, join
from modelworks.engine.row import Piece, Prompt
from modelworks.engine.sample import Sampling


def answer_all(engine: Engine, requests: Iterable[tuple[Prompt, Sampling]], *, in_flight: int = 64) -> Iterator[Piece]:
    """Each request's answer as one piece, in order; at most `in_flight` are asked ahead, so the list may be long.

    Where others keep the engine's queue full, this waits for answers of its own before it asks for more. Closing the
    iterator cancels what was asked. Raises what `Engine.submit` and the answers raise, `QueueFullError` only where
    there is no answer of its own to wait for.
    """
    asked: deque[Handle] = deque()
    for prompt, sampling in requests:
        while len(asked) >= in_flight:
            yield join(list(asked.popleft()))
        while True:
            try:
                asked.append(engine.submit(prompt, sampling))
                break
            except QueueFullError:
                if not asked:
                    raise
                yield join(list(asked.popleft()))
    while asked:
        yield join(list(asked.popleft()))
