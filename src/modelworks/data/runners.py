"""Doing the parts of a corpus: in this process, in a pool of processes, or on Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelworks.core.errors import ConfigError
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
    # Not forked: the progress bar is a thread, and a process that is forked beside one may stand still.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (worker.recipe, worker.folder))
    try:
        # The largest first, so that none is begun when all others are done.
        for done in as_completed([pool.submit(_do, part) for part in sorted(parts, key=_size, reverse=True)]):
            advance(done.result())
    finally:
        pool.shutdown(cancel_futures=True)


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
