from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelworks.agents.model import Reply
from modelworks.agents.planning.budget import Budget, Budgeted, Spent, SpentError
from modelworks.core.errors import ConfigError

ASK = [{"role": "user", "content": "three words here"}]


class Slow:
    """Answers with as many tokens as it may; several at once."""

    name, context_length = "slow", 1000

    def count(self, messages: Any, tools: Any = ()) -> int:
        return 3

    def reply(self, messages: Any, tools: Any = (), *, max_tokens: int = 512, **_: Any) -> Reply:
        time.sleep(0.002)
        return Reply("x", prompt_tokens=3, completion_tokens=max_tokens)


def test_calls_and_tokens_are_counted(scripted):
    model = Budgeted(scripted(Reply("a", prompt_tokens=3, completion_tokens=2), Reply("b")), Budget())
    model.reply(ASK)
    model.reply(ASK)
    # A server that does not say how long the prompt was is taken at the model's own count.
    assert model.budget.spent == Spent(calls=2, prompt_tokens=6, completion_tokens=2)
    assert model.budget.spent.tokens == 8
    assert (model.name, model.context_length, model.count(ASK)) == ("scripted", 4096, 3)


def test_calls_that_run_together_never_overshoot_their_cap(scripted):
    """pydantic-ai PR 2978: a parallel batch of 8 under a cap of 6."""
    inner = scripted(*[Reply("a")] * 8)
    model = Budgeted(inner, Budget(calls=6))
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(model.reply, ASK) for _ in range(8)]
    assert len(inner.asked) == 6
    assert sum(isinstance(future.exception(), SpentError) for future in futures) == 2


@pytest.mark.parametrize("tokens", [13, 40, 100])
def test_tokens_are_never_spent_twice_and_the_last_answer_takes_what_is_left(tokens):
    model = Budgeted(Slow(), Budget(tokens=tokens))
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(model.reply, ASK, max_tokens=10) for _ in range(20)]
    paid, rest = divmod(tokens, 13)
    paid += rest > 3
    assert sum(future.exception() is None for future in futures) == paid
    assert model.budget.spent.tokens == (tokens if rest > 3 else tokens - rest)


def test_a_call_that_fails_frees_what_it_reserved():
    budget = Budget(tokens=20)

    def fail(most: int) -> Reply:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        budget.asked(3, 17, fail)
    assert budget.spent == Spent(calls=1)
    assert budget.asked(3, 17, lambda most: Reply("x", (), 3, most)).completion_tokens == 17


def test_take_counts_calls_made_otherwise():
    budget = Budget(calls=3)
    budget.take(2)
    with pytest.raises(SpentError, match="2 of 3 calls are spent, and 2 more are asked for"):
        budget.take(2)
    assert budget.spent.calls == 2


def test_limits_below_zero_are_refused():
    with pytest.raises(ConfigError, match="tokens is -1"):
        Budget(tokens=-1)


def test_who_waits_for_tokens_is_woken(scripted):
    """Two calls of which only one fits at first; the second fits once the first turns out short."""
    budget, first_is_in = Budget(tokens=20), threading.Event()
    first_may_end = threading.Event()

    def short(most: int) -> Reply:
        first_is_in.set()
        assert first_may_end.wait(10)
        return Reply("x", (), 3, 1)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(budget.asked, 3, 12, short)
        assert first_is_in.wait(10)
        second = threads.submit(budget.asked, 3, 12, lambda most: Reply("y", (), 3, most))
        first_may_end.set()
        assert (first.result().completion_tokens, second.result().completion_tokens) == (1, 12)
