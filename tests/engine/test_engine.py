"""The engine as its callers meet it: threads, event loops, limits, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.engine.engine import Engine, EngineClosedError, EngineStats, QueueFullError, _compute_alone
from modelworks.engine.generate import complete
from modelworks.engine.handle import Handle
from modelworks.engine.runner import TorchRunner
from modelworks.engine.sample import Sampling
from modelworks.engine.speculate import prompt_lookup
from modelworks.models.base import LanguageModel
from modelworks.text.chat import ChatError

ENDLESS = Sampling(max_tokens=4000, logit_bias={12: -np.inf})  # for Recall, whose token 12 ends an answer


class Gated:
    """A runner whose steps wait for leave, so that what happens between two of them can be tested."""

    def __init__(self, model: LanguageModel, *, open_gate: bool = False) -> None:
        self.inner = TorchRunner(model, kv_bytes=1 << 22, block_size=4)
        self.leave = threading.Semaphore(10**9 if open_gate else 0)
        self.fails: list[Exception] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self, *batch: Any) -> Any:
        assert self.leave.acquire(timeout=30)
        if self.fails:
            raise self.fails.pop()
        return self.inner.step(*batch)


@pytest.fixture
def gated(recall: LanguageModel) -> Iterator[tuple[Engine, Gated]]:
    runner = Gated(recall)
    engine = Engine(recall, runner=runner, max_running=2, max_step_tokens=8, max_queued=2)
    yield engine, runner
    runner.leave.release(10**6)
    engine.close(drain=False)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.002)


def both_running(engine: Engine, runner: Gated) -> list[Handle]:
    """Two requests that run, with the engine at the gate of a step."""
    handles = [engine.submit([1], ENDLESS)]
    wait_until(lambda: engine.stats().running == 1)
    handles.append(engine.submit([2], ENDLESS))
    runner.leave.release()
    wait_until(lambda: engine.stats().running == 2)
    return handles


def ids(handle: Handle) -> tuple[int, ...]:
    return tuple(index for piece in handle for index in piece.ids)


def reason(handle: Handle) -> str | None:
    return list(handle)[-1].finish_reason


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answers_equal_generate(model: LanguageModel) -> None:
    """Text, ids and messages, greedy and sampled, at once."""
    prompts: list[Any] = ["hi", [104, 105], [{"role": "user", "content": "hi"}], "there", "there"]
    samplings = [Sampling(max_tokens=9), Sampling(max_tokens=5, temperature=1, seed=3, logprobs=2)]
    with Engine(model, kv_bytes=1 << 20) as engine:
        handles = [engine.submit(prompt, samplings[at % 2]) for at, prompt in enumerate(prompts)]
        for at, (prompt, handle) in enumerate(zip(prompts, handles)):
            pieces = list(handle)
            (expected,) = complete(model, prompt, samplings[at % 2])
            assert "".join(piece.text for piece in pieces) == expected.text
            assert tuple(index for piece in pieces for index in piece.ids) == expected.ids
            assert pieces[-1].finish_reason == expected.finish_reason
            assert [list(top) for piece in pieces for top in piece.top_logprobs] == [
                list(top) for top in expected.top_logprobs
            ]
            assert {piece.index for piece in pieces} == {0}
        assert handles[2].prompt_tokens > handles[0].prompt_tokens == 2


def test_many_threads_and_loops(recall: LanguageModel) -> None:
    prompts = [[n % 5, n % 3, *[7] * (n % 9)] for n in range(24)]
    sampling = Sampling(max_tokens=15, temperature=1, seed=1)
    expected = [complete(recall, prompt, sampling)[0].ids for prompt in prompts]
    got: dict[int, tuple[int, ...]] = {}

    async def read(at: int) -> None:
        got[at] = tuple([index async for piece in engine.submit(prompts[at], sampling) for index in piece.ids])

    async def several(first: int) -> None:
        await asyncio.gather(*(read(at) for at in range(first, first + 6)))

    with Engine(recall, kv_bytes=1 << 12, max_running=5, max_step_tokens=12) as engine:
        threads = [threading.Thread(target=asyncio.run, args=[several(first)]) for first in range(0, 24, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [got[at] for at in range(24)] == expected


def test_a_model_by_name_and_other_models(tmp_path: Any, model: LanguageModel) -> None:
    from modelworks.models.save import save

    save(model, tmp_path)
    with Engine(str(tmp_path), kv_bytes=1 << 20, speculation=prompt_lookup()) as engine:
        assert ids(engine.submit("hi", Sampling(max_tokens=5))) == complete(model, "hi", Sampling(max_tokens=5))[0].ids


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "sampling", "error", "message"),
    [
        ([], Sampling(), ConfigError, "prompt is empty"),
        ([999], Sampling(), ConfigError, "token 999"),
        ([1] * 40, Sampling(max_tokens=20), ContextLengthError, "40 tokens and the answer may have 20.*context is 48"),
        ([{"role": "user"}], Sampling(max_tokens=2), ChatError, "content"),
        ([1], Sampling(logit_bias={999: 1.0}, max_tokens=2), ConfigError, "logit_bias names token 999"),
    ],
)
def test_bad_requests_are_named_at_once(
    prompt: Any, sampling: Sampling, error: type[Exception], message: str, model: LanguageModel
) -> None:
    with Engine(model, kv_bytes=1 << 20) as engine:
        with pytest.raises(error, match=message):
            engine.submit(prompt, sampling)
        assert engine.stats().counts.requests == 0


def test_a_full_queue_is_said(gated: tuple[Engine, Gated]) -> None:
    engine, runner = gated
    running = both_running(engine, runner)
    waiting = [engine.submit([n], ENDLESS) for n in range(2)]
    with pytest.raises(QueueFullError, match="2 requests wait already"):
        engine.submit([1], ENDLESS)
    running[0].cancel()
    runner.leave.release(3)
    wait_until(lambda: engine.stats().queued == 1)
    waiting.append(engine.submit([1], ENDLESS))


def test_settings_that_cannot_work(recall: LanguageModel) -> None:
    for settings, message in (
        ({"max_queued": 0}, "max_queued is 0"),
        ({"max_running": 0}, "max_running is 0"),
        ({"max_step_tokens": 31}, "less than max_running=32"),
        ({"kv_bytes": 10}, "one block of 32 tokens takes"),
    ):
        with pytest.raises(ConfigError, match=message):
            Engine(recall, **settings)  # type: ignore[arg-type]


# --- how requests end -------------------------------------------------------------------------------------------------


def test_cancel_frees_the_slot_and_says_so(gated: tuple[Engine, Gated]) -> None:
    engine, runner = gated
    handle, other = engine.submit([1], ENDLESS), engine.submit([2], Sampling(max_tokens=6))
    runner.leave.release(3)
    wait_until(lambda: engine.stats().counts.steps >= 2)
    handle.cancel()
    runner.leave.release(10**6)
    assert reason(handle) == "cancelled"
    assert ids(other) == complete(engine.model, [2], Sampling(max_tokens=6))[0].ids
    wait_until(lambda: engine.stats().running == 0)
    assert engine.stats().blocks_used == 0
    assert engine.stats().counts.cancelled == 1


def test_a_dropped_handle_frees_the_slot(gated: tuple[Engine, Gated]) -> None:
    engine, runner = gated
    runner.leave.release(10**6)
    for _ in engine.submit([1], ENDLESS):
        break
    gc.collect()
    wait_until(lambda: engine.stats().counts.cancelled == 1 and engine.stats().blocks_used == 0)


def test_a_dropped_async_reader_frees_the_slot(gated: tuple[Engine, Gated]) -> None:
    """A client that disconnects: its task is cancelled in the midst of reading."""
    engine, runner = gated
    runner.leave.release(5)

    async def read() -> None:
        async for _ in engine.submit([1], ENDLESS):
            pass

    async def disconnect() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        runner.leave.release(10**6)
        while engine.stats().running:
            await asyncio.sleep(0.002)

    asyncio.run(asyncio.wait_for(disconnect(), 20))
    assert engine.stats().counts.cancelled == 1


def test_nobody_waits_for_a_reader(gated: tuple[Engine, Gated]) -> None:
    engine, runner = gated
    runner.leave.release(10**6)
    unread = engine.submit([1], Sampling(max_tokens=200, logit_bias={12: -np.inf}))
    wait_until(lambda: engine.stats().counts.finished == 1)
    (piece,) = unread
    assert len(piece.ids) == 200


def test_a_failing_runner_ends_its_requests_and_the_engine_goes_on(gated: tuple[Engine, Gated]) -> None:
    engine, runner = gated
    lost = both_running(engine, runner)
    runner.fails.append(MemoryError("out of memory"))
    runner.leave.release(10**6)
    for handle in lost:
        with pytest.raises(RuntimeError, match=r"step failed.*out of memory"):
            list(handle)
    assert engine.stats().counts.failed == 2
    assert ids(engine.submit([3], Sampling(max_tokens=5))) == complete(engine.model, [3], Sampling(max_tokens=5))[0].ids


# --- stats ------------------------------------------------------------------------------------------------------------


def test_stats(recall: LanguageModel) -> None:
    sampling = Sampling(max_tokens=5, logit_bias={12: -np.inf})
    with Engine(recall, runner=TorchRunner(recall, kv_bytes=1 << 10, block_size=4)) as engine:
        for _ in range(2):
            handle = engine.submit([1, 2, 3, 4, 5, 6], sampling)
            ids(handle)
        wait_until(lambda: engine.stats().running == 0)
        stats = engine.stats()
    assert isinstance(stats, EngineStats)
    assert handle.cached_tokens == 4
    counts = stats.counts
    assert (counts.requests, counts.finished, counts.prompt_tokens, counts.cached_tokens) == (2, 2, 12, 4)
    assert counts.generated_tokens == 10
    assert counts.steps == 10
    assert (stats.blocks_used, stats.blocks_cached, stats.blocks_free) == (0, 2, 1024 // 32 - 2)
    assert (stats.running, stats.queued) == (0, 0)


# --- closing ----------------------------------------------------------------------------------------------------------


def test_close_finishes_what_was_accepted(gated: tuple[Engine, Gated]) -> None:
    engine, runner = gated
    handles = [engine.submit([n], Sampling(max_tokens=6)) for n in range(3)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: not engine._accepting)
    with pytest.raises(EngineClosedError, match="closed"):
        engine.submit([1])
    runner.leave.release(10**6)
    closing.join()
    assert [ids(handle) for handle in handles] == [
        complete(engine.model, [n], Sampling(max_tokens=6))[0].ids for n in range(3)
    ]
    engine.close()


def test_close_without_draining_cancels(gated: tuple[Engine, Gated]) -> None:
    engine, runner = gated
    handles = [engine.submit([n], ENDLESS) for n in range(4)]
    draining = threading.Thread(target=engine.close)
    draining.start()
    runner.leave.release(10**6)
    engine.close(drain=False)
    draining.join()
    assert [reason(handle) for handle in handles] == ["cancelled"] * 4


def test_an_error_in_the_with_block_does_not_wait_for_answers(recall: LanguageModel) -> None:
    handles = []

    def fail() -> None:
        with Engine(recall, kv_bytes=1 << 20) as engine:
            handles.append(engine.submit([1], ENDLESS))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    (handle,) = handles
    assert reason(handle) == "cancelled"


def test_a_program_that_forgets_to_close_still_ends() -> None:
    program = (
        "from modelworks.engine.engine import Engine\n"
        "from modelworks.models.llama import Llama, LlamaConfig\n"
        "config = dict(model_type='llama', vocab_size=64, hidden_size=8, intermediate_size=8, num_hidden_layers=1,\n"
        "              num_attention_heads=2, max_position_embeddings=4096, eos_token_id=None)\n"
        "engine = Engine(Llama(LlamaConfig.from_hf(config)), kv_bytes=1 << 20)\n"
        "from modelworks.engine.sample import Sampling\n"
        "handle = engine.submit([1], Sampling(max_tokens=4000))\n"
        "print(len(next(iter(handle)).ids) > 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.slow
def test_starter_in_company_equals_generate(smollm: LanguageModel) -> None:
    texts = ["The capital of France is", "def add(a, b):\n    return", "Once upon a time, in 1987,"]
    with Engine(smollm, kv_bytes=1 << 28, max_step_tokens=32, speculation=prompt_lookup()) as engine:
        handles = [engine.submit(text, Sampling(max_tokens=16)) for text in texts]
        got = [ids(handle) for handle in handles]
    assert got == [complete(smollm, text, Sampling(max_tokens=16))[0].ids for text in texts]


def test_torch_computes_alone_on_that_thread_and_as_before_on_others() -> None:
    """Its threads spin after each operator, on cores that a native program needs."""
    found: dict[str, int] = {}

    def note(name: str) -> None:
        found[name] = torch.get_num_threads()

    def worker() -> None:
        _compute_alone()
        torch.ones(1 << 20).sum()
        note("worker")

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for target, name in ((worker, "worker"), (lambda: note("later"), "later")):
            thread = threading.Thread(target=target, name=name)
            thread.start()
            thread.join()
        note("this")
    finally:
        torch.set_num_threads(before)
    assert found == {"worker": 1, "later": 3, "this": 3}
