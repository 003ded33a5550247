"""A training run's state on disk: written whole or not at all, checked before it is gone on from.

A checkpoint is a folder `step-00000100` with `state.pt`, tensors and plain values, and `checkpoint.json`, which has the
file's size and hash, the recipe and the shapes of the model's parameters.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock
import numpy as np
import torch

from modelworks.core.config import differences
from modelworks.core.errors import ConfigError, ModelFileError, TrainingError
from modelworks.core.lineage import sha256
from modelworks.core.paths import atomic_folder, read_json
from modelworks.parallel.ranks import rank

_STATE, _ABOUT, _LOCK = "state.pt", "checkpoint.json", "run.lock"
_NAME = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The checkpoints of one run, of which the last `keep` stay.

    Used as a context: within it the run's folder is locked, and another run in it is refused with a ConfigError. Of
    several processes the first locks it; only that one saves, and all see the same folder.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2) -> None:
        self.folder = Path(folder)
        self.keep = keep
        self._lock = filelock.FileLock(self.folder / _LOCK, timeout=0)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if rank() > 0:
            return self
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise ConfigError(f"{self.folder}: another run is using this folder; name another one") from None
        for left in self.folder.glob(".step-*"):  # what a run that was killed had begun
            shutil.rmtree(left, ignore_errors=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()

    def steps(self) -> dict[int, Path]:
        """All that are there, the oldest first."""
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir() if path.is_dir())
        return dict(sorted((int(match[1]), path) for match, path in found if match))

    def save(self, step: int, state: Mapping[str, Any], *, recipe: Mapping[str, Any]) -> Path:
        """Write the state after `step`, then remove the oldest; raise TrainingError where the disk refuses.

        Where that happens, what was there stays as it was.
        """
        target = self.folder / f"step-{step:08d}"
        try:
            with atomic_folder(target) as scratch:
                file = scratch / _STATE
                torch.save(dict(state), file)
                about = {
                    "step": step,
                    "bytes": file.stat().st_size,
                    "sha256": sha256(file),
                    "recipe": recipe,
                    "shapes": _shapes(state["model"]),
                }
                (scratch / _ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
            last = max(self.steps(), default=None)
            stays = "there is none before it" if last is None else f"that of step {last} stays"
            raise TrainingError(f"{target}: the checkpoint cannot be written ({reason}); {stays}") from error
        for old in list(self.steps().values())[: -self.keep or None]:
            shutil.rmtree(old)
        return target

    def load(self, *, recipe: Mapping[str, Any], model: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
        """The last state, None where there is none yet.

        Raises TrainingError for one that is damaged, of another recipe, or of a model with other parameters than
        `model`, which is a module's state.
        """
        steps = self.steps()
        if not steps:
            return None
        path = steps[max(steps)]
        file = path / _STATE
        try:
            about = read_json(path / _ABOUT)
            whole = file.stat().st_size == about["bytes"] and sha256(file) == about["sha256"]
            saved_recipe, saved_shapes = about["recipe"], about["shapes"]
        except (ModelFileError, OSError, KeyError) as error:
            raise TrainingError(
                f"{path}: no whole checkpoint ({error}); remove it to go on from the checkpoint before it"
            ) from error
        if not whole:
            raise TrainingError(f"{file}: damaged or cut short; remove {path} to go on from the checkpoint before it")
        for name, was, now in differences(saved_recipe, recipe):
            raise TrainingError(f"{path} is of another recipe: {name} was {was!r} and is {now!r}")
        for name, was, now in differences(saved_shapes, _shapes(model)):
            raise TrainingError(
                f"{path} is of another model: {name} was {was or 'not there'} and is {now or 'not there'}"
            )
        return torch.load(file, map_location="cpu", weights_only=True)


def _shapes(model: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.items()}


def rng_state() -> dict[str, Any]:
    """The state of every generator that a step may draw from: Python's, NumPy's and torch's."""
    _, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Go on drawing from where `rng_state` was asked."""
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Begin every generator anew."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
