"""Doing the parts of a corpus: in this process, in a pool of processes, or on Ray Data."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, Literal

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.core.log import Advance
from modelworks.data.parts import Part, Worker

if TYPE_CHECKING:
    from modelworks.data.prepare import Preparation

Runner = Literal["local", "ray"]


def run_local(worker: Worker, parts: Sequence[Part], workers: int, advance: Advance) -> None:
    """Do `parts` in this process, or in a pool of `workers` processes where there is more than one."""
    workers = min(workers, len(parts))
    if workers <= 1:
        for part in parts:
            advance(0, note=part.files[0].name)
            worker(part)
            advance(len(part.files))
        return
    others = set(active_children())
    # Not forked: the progress bar is a thread, and a process that is forked beside one may stand still.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (worker.recipe, worker.folder))
    try:
        with _ctrl_c_ignored():  # the processes, which begin here, inherit that: only this one is to answer
            # The largest first, so that none is begun when all others are done.
            waiting = [pool.submit(_do, part) for part in sorted(parts, key=_size, reverse=True)]
        for done in as_completed(waiting):
            advance(done.result())
    except BrokenProcessPool:
        raise ModelworksError(
            "a worker was killed, mostly since memory ran out: the same command with fewer workers goes on from there"
        ) from None
    except BaseException:
        for process in set(active_children()) - others:
            process.terminate()  # what they are doing would be waited for, and its result is not asked for
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if current_thread() is not main_thread():  # which alone may set that
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _size(part: Part) -> int:
    return sum(file.path.stat().st_size for file in part.files if file.path.exists())


_workers: list[Worker] = []
"""The worker of a process of the pool."""


def _begin(recipe: Preparation, folder: Path) -> None:
    _workers.append(Worker(recipe, folder))


def _do(part: Part) -> int:
    _workers[0](part)
    return len(part.files)


def run_on_ray(worker: Worker, parts: Sequence[Part], workers: int, advance: Advance) -> None:
    """Do `parts` with Ray Data, on up to `workers` actors; all machines must see the input and the parts' folder.

    Raises:
        ConfigError: Ray Data is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ConfigError(f"Ray Data needs {error.name}: pip install 'modelworks[ray]'") from error
    if not parts:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one already
    rows = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    done = rows.map(
        _OnRay,
        fn_constructor_args=(worker.recipe, worker.folder.resolve()),
        concurrency=(1, max(min(workers, len(parts)), 1)),
    )
    for row in done.iter_rows():
        advance(row["files"])


class _OnRay:
    def __init__(self, recipe: Preparation, folder: Path) -> None:
        self._worker = Worker(recipe, folder)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self._worker(row["part"])
        return {"files": len(row["part"].files)}


RUNNERS: Mapping[Runner, Callable[[Worker, Sequence[Part], int, Advance], None]] = {
    "local": run_local,
    "ray": run_on_ray,
}
