"""Chain of thought, and self-consistency: several chains, of whose answers the most frequent counts.

Chain of thought: Wei et al. 2022 (arXiv:2201.11903), without examples Kojima et al. 2022 (arXiv:2205.11916).
Self-consistency: Wang et al. 2022 (arXiv:2203.11171), equation 1 with every chain weighing the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Message
from modelworks.agents.planning.budget import SpentError

INSTRUCTION = "Think step by step. End with a line that begins with ####, followed by the answer alone."

Extract = Callable[[str], Hashable | None]
"""The answer that a text comes to, in a form in which equal answers are equal; None for a text without one."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One line of thought."""

    text: str
    answer: Hashable | None
    """None also for a text that a limit of tokens cut: what stands last in half a thought is no answer."""


@dataclass(frozen=True, slots=True)
class Consensus:
    """Chains, and what most of them come to."""

    chains: tuple[Chain, ...]

    @property
    def answer(self) -> Hashable | None:
        """The most frequent answer, of several the one that came first; None where no chain has one."""
        return majority(chain.answer for chain in self.chains)

    @property
    def share(self) -> float:
        """How many of the chains come to it: how sure one may be (section 3.3 there)."""
        if not self.chains or self.answer is None:
            return 0.0
        return sum(chain.answer == self.answer for chain in self.chains) / len(self.chains)


def majority(answers: Iterable[Hashable | None]) -> Hashable | None:
    """The most frequent answer that is one; of several the first."""
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def last_line(text: str) -> str | None:
    """The text behind the last "####", else the last line that is not blank; None for a blank text."""
    lines = [line.strip() for line in text.rpartition("####")[2].splitlines() if line.strip()]
    if "####" in text:
        return lines[0] if lines else None
    return lines[-1] if lines else None


def asked(question: str, instruction: str = INSTRUCTION, shots: Sequence[Message] = ()) -> list[Message]:
    """The messages that ask for a chain of thought, after `shots`, which are questions and their worked answers."""
    return [*shots, {"role": "user", "content": f"{question}\n{instruction}" if instruction else question}]


def think(
    model: ChatModel,
    messages: Sequence[Message],
    *,
    extract: Extract = last_line,
    max_tokens: int = 512,
    halt: Halt | None = None,
) -> Chain:
    """One chain of thought to messages such as `asked` makes. Raises what `ChatModel.reply` raises."""
    reply = model.reply(messages, max_tokens=max_tokens, halt=halt)
    return Chain(reply.text, None if reply.cut else extract(reply.text))


def self_consistency(
    model: ChatModel,
    messages: Sequence[Message],
    *,
    samples: int = 5,
    extract: Extract = last_line,
    max_tokens: int = 512,
    parallel: int = 4,
    halt: Halt | None = None,
) -> Consensus:
    """`samples` chains, or as many as the model's budget pays for (see `budget.Budgeted`), and their majority.

    The model must sample: chains of a greedy one are all the same. Raises ValueError without samples, and what
    `ChatModel.reply` raises, but for a budget that ends.
    """
    if samples < 1 or parallel < 1:
        raise ValueError(f"{samples} samples, {parallel} at once: expected at least 1")
    found: dict[int, Chain] = {}

    def sample(at: int) -> None:
        found[at] = think(model, messages, extract=extract, max_tokens=max_tokens, halt=halt)

    with ThreadPoolExecutor(min(parallel, samples)) as threads:
        futures = [threads.submit(sample, at) for at in range(samples)]
        any(future.exception() for future in futures)  # waits up to the first that fails
        threads.shutdown(cancel_futures=True)
    for future in futures:
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, SpentError):
            raise error
    return Consensus(tuple(found[at] for at in sorted(found)))
