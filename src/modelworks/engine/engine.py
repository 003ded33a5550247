"""The engine: submit prompts from any thread, get their answers as they come; one thread computes them together."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.engine.adapters import Adapters
from modelworks.engine.handle import Handle
from modelworks.engine.row import Prompt
from modelworks.engine.runner import Runner, open_model
from modelworks.engine.sample import Sampling
from modelworks.engine.schedule import Counts, Request, Scheduler, ask
from modelworks.engine.speculate import Speculation
from modelworks.kernels.program import Program
from modelworks.models.base import LanguageModel
from modelworks.models.load import load


class QueueFullError(ModelworksError):
    """As many requests wait as may; try again later."""


class EngineClosedError(ModelworksError):
    """The engine takes no more requests."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine does now, and what it has done since it began."""

    running: int
    queued: int
    blocks_used: int
    blocks_cached: int
    """Held by no request, and kept for prompts that begin alike until their memory is needed."""
    blocks_free: int
    counts: Counts


class Engine:
    """Answers requests together; `submit` from any thread, and `close` at the end (or use it as a context manager).

    `kv_bytes` is the memory for keys and values, unless a `runner` brings its own. At most `max_running` requests share
    a step of at most `max_step_tokens` tokens; `max_queued` more may wait. `speculation` makes a drafter for each
    request (see `speculate`). `weights` packs a torch model for the native program (see `open_model`). Raises
    `ConfigError` for numbers that cannot work, and what `load` raises.
    """

    def __init__(
        self,
        model: LanguageModel | str | Path,
        *,
        kv_bytes: int = 512 << 20,
        max_running: int = 32,
        max_step_tokens: int = 512,
        max_queued: int = 256,
        prefix_cache: bool = True,
        speculation: Speculation | None = None,
        weights: Literal["q8", "q4"] | None = None,
        runner: Runner | None = None,
    ) -> None:
        if max_queued < 1:
            raise ConfigError(f"max_queued is {max_queued}, expected at least 1")
        if runner is None:
            model, runner = open_model(model, kv_bytes=kv_bytes, weights=weights)
        elif not isinstance(model, LanguageModel):
            model = load(model, kind=LanguageModel)
        self.model = model
        self._scheduler = Scheduler(
            runner,
            max_running=max_running,
            max_step_tokens=max_step_tokens,
            prefix_cache=prefix_cache,
        )
        self._runner = runner
        self._adapters = Adapters(model, runner)
        self._most = max_running + max_queued
        self._speculation = speculation
        self._wake = threading.Condition()  # guards what follows; the scheduler is the worker's alone
        self._arrived: list[Request] = []
        self._accepting, self._stopping = True, False
        self._worker = threading.Thread(target=self._work, name="modelworks-engine", daemon=True)
        self._worker.start()
        # A daemon that still computes while the interpreter is torn down would crash it.
        atexit.register(self.close, drain=False)

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        adapter: str | None = None,
    ) -> Handle:
        """Ask for an answer to one prompt, which is read and sampled as `generate` does; by the adapter of that name.

        Raises at once what `generate` raises for a prompt, `ContextLengthError` also where the request alone would not
        fit the cache, `UnknownAdapterError`, `QueueFullError` where too many wait already, `EngineClosedError` after
        `close`.
        """
        with self._adapters.pinned(adapter) as chosen:
            request = ask(
                self.model,
                self._scheduler.pool,
                prompt,
                sampling,
                tools=tools,
                speculation=self._speculation,
                adapter=chosen,
            )
            with self._wake:
                if not self._accepting:
                    raise EngineClosedError("the engine is closed and takes no more requests")
                if len(self._scheduler.running) + self._queued() >= self._most:
                    raise QueueFullError(f"{self._queued()} requests wait already, as many as may; try again later")
                self._arrived.append(request)
                self._wake.notify_all()
        return Handle(request.feed)

    def add_adapter(self, name: str, path: str | Path) -> None:
        """Load a LoRA adapter, a PEFT folder or a GGUF file, for requests to choose by name; answers go on meanwhile.

        Raises `ConfigError` for a name that is taken, and `ModelFileError` for files that are damaged, not supported or
        of another model; the adapters that are there stay as they are.
        """
        self._adapters.add(name, path)

    def remove_adapter(self, name: str) -> None:
        """Take an adapter away from later requests; those that were accepted finish with it, and then its memory goes.

        So another may take its name at once. Raises `UnknownAdapterError`.
        """
        self._adapters.remove(name)
        with self._wake:
            self._wake.notify_all()

    def adapters(self) -> tuple[str, ...]:
        """The names that `submit` takes, in the order in which they were added."""
        return self._adapters.names()

    def _queued(self) -> int:
        return len(self._arrived) + len(self._scheduler.queue)

    def stats(self) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(
            running=len(scheduler.running),
            queued=self._queued(),
            blocks_used=scheduler.pool.used,
            blocks_cached=scheduler.pool.cached,
            blocks_free=scheduler.pool.free,
            counts=replace(scheduler.counts),
        )

    def close(self, *, drain: bool = True) -> None:
        """Take no more requests; finish those that were accepted, or with `drain=False` cancel them. Returns when done.

        A second call with `drain=False` cuts a first one short.
        """
        with self._wake:
            self._accepting = False
            self._stopping = self._stopping or not drain
            self._wake.notify_all()
        self._worker.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close(drain=kind is None)

    def _work(self) -> None:
        """The worker's thread: one step after the other while there is anything to do."""
        if isinstance(self._runner, Program):
            _compute_alone()
        while self._wait():
            try:
                self._scheduler.step()
            except Exception as error:  # noqa: BLE001 - whatever a runner raises, those who wait must hear of it
                self._scheduler.fail(error)
        self._scheduler.cancel()

    def _wait(self) -> bool:
        """Sleep until there is work, and take in what arrived; False when the engine is to end."""
        scheduler = self._scheduler
        with self._wake:
            while self._accepting and not (self._arrived or scheduler.queue or scheduler.running):
                self._adapters.sweep(())
                self._wake.wait()
            for request in self._arrived:
                scheduler.add(request)
            self._arrived.clear()
            self._adapters.sweep(request.adapter for request in (*scheduler.queue, *scheduler.running))
            return not self._stopping and bool(scheduler.queue or scheduler.running)


def _compute_alone() -> None:
    """Let torch compute on the calling thread alone, and on other threads as before.

    Beside a native program torch only samples. Its threads gain nothing there, and spin for a while after each
    operator on cores that the program's threads need: with 16 streams on two cores, an eighth of the speed.
    """
    others = torch.get_num_threads()
    torch.set_num_threads(1)
    # That was this thread's number, and that of all threads to come; another thread gives them theirs back.
    giver = threading.Thread(target=torch.set_num_threads, args=(others,))
    giver.start()
    giver.join()
