"""What a frozen reference says of comparisons: computed once, kept on disk, so that two models never stand in memory.

A file is named by the digest of the reference's weights, config, tokenizer and chat template, of the rows, and of the
precision: another model, other data or another template never finds it (axolotl#1265).

Shapes: n rows, k completions of each.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from modelworks.core.log import progress
from modelworks.core.paths import atomic_file, cache_dir
from modelworks.data.branches import branch_batch
from modelworks.data.pairs import Comparisons
from modelworks.data.teacher import fingerprint
from modelworks.models.base import LanguageModel
from modelworks.objectives.completions import completions
from modelworks.parallel.ranks import gather_from_ranks, rank, wait_for_ranks, world_size

_SAVE_EVERY = 60.0  # seconds of work that a kill may cost


def reference_logps(
    model: LanguageModel,
    comparisons: Comparisons,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_tokens: int = 4096,
    folder: str | Path | None = None,
    quiet: bool = False,
) -> NDArray[np.float32]:
    """The sums of the completions' log-probabilities under a model as it is now, logps_nk.

    They are kept in `folder`, or in the cache, and computing them goes on where it was stopped. Of several processes
    each computes a part. `precision` is what the policy is trained in: the two agree at the first step only if both are
    rounded alike.
    """
    key = hashlib.sha256(f"{fingerprint(model)} {comparisons.digest} {precision}".encode()).hexdigest()[:32]
    home = Path(folder) if folder is not None else cache_dir() / "reference"
    home.mkdir(parents=True, exist_ok=True)
    done, part = home / f"{key}.npy", home / f"{key}.{rank()}-of-{world_size()}.part.npy"
    is_done = done.exists()
    wait_for_ranks()  # before the first of them writes it
    if is_done:
        return _read(done)
    n, k = len(comparisons), max(len(comparisons[at].completions) for at in range(len(comparisons)))
    logps_nk = _read(part) if part.exists() else np.full((n, k), np.nan, np.float32)
    mine = np.arange(rank(), n, world_size())
    left = mine[np.isnan(logps_nk[mine, 0])]
    device = next(model.parameters()).device
    saved = time.monotonic()
    with progress("reference", len(mine), quiet=quiet or rank() > 0) as advance:
        advance(len(mine) - len(left))
        for chosen in _batches(comparisons, left, batch_tokens):
            rows = [comparisons[at] for at in chosen]
            batch = {name: tensor.to(device) for name, tensor in branch_batch(rows, pad_id=comparisons.pad_id).items()}
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logps_S = completions(model, batch, k * len(rows)).logps_S
            logps_nk[chosen] = logps_S.cpu().numpy().reshape(len(rows), k)
            advance(len(rows))
            if time.monotonic() - saved > _SAVE_EVERY:
                _write(part, logps_nk)
                saved = time.monotonic()
    for at, theirs in enumerate(gather_from_ranks(logps_nk)):
        logps_nk[at :: world_size()] = theirs[at :: world_size()]
    if rank() == 0:
        _write(done, logps_nk)
    part.unlink(missing_ok=True)
    wait_for_ranks()
    return logps_nk


def _batches(comparisons: Comparisons, rows: NDArray[np.int64], tokens: int) -> list[list[int]]:
    """Rows in their order, so many together that they take about `tokens`, and at least one."""
    found: list[list[int]] = []
    filled = tokens
    for at, places in zip(rows.tolist(), comparisons.lengths(rows).tolist()):
        if filled + places > tokens:
            found.append([])
            filled = 0
        found[-1].append(at)
        filled += places
    return found


def _read(path: Path) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.load(path)
    return found


def _write(path: Path, values: NDArray[np.float32]) -> None:
    with atomic_file(path) as file:
        np.save(file.buffer, values)
