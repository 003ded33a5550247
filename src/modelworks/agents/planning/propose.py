"""Proposals of a chat model for a search: what may follow a state, in its own words, read by a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Message
from modelworks.agents.planning.tree import Propose, State


def by_model(
    model: ChatModel,
    ask: Callable[[State], Sequence[Message]],
    read: Callable[[State, str], Iterable[State]],
    *,
    samples: int = 1,
    max_tokens: int = 256,
    parallel: int = 4,
    halt: Halt | None = None,
) -> Propose[State]:
    """A `propose` for `tree.search`: `samples` replies to what `ask` asks of a state, each read by `read`.

    One reply that lists several states is the paper's "propose" prompt; several samples of one state each are its
    "sample" (section 3 there). `read` leaves out what it cannot read. Replies to one state are asked for together.
    """

    def propose(state: State) -> Iterator[State]:
        messages = ask(state)

        def reply(at: int) -> str:
            return model.reply(messages, max_tokens=max_tokens, halt=halt).text

        if samples == 1:
            yield from read(state, reply(0))
            return
        with ThreadPoolExecutor(min(parallel, samples)) as threads:
            futures = [threads.submit(reply, at) for at in range(samples)]
            try:
                for future in futures:
                    yield from read(state, future.result())
            finally:
                threads.shutdown(cancel_futures=True)

    return propose
