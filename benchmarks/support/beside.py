"""Ours and TRL side by side: one folder of the model, one first adapter, the same batches, a process for each run."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RANK, ALPHA = 16, 32.0
LR, CLIP = 2e-4, 1.0
WARM_UP = 3
ROOT = Path(__file__).parents[2]
Task = dict[str, Any]
Side = Callable[[Task], dict[str, Any]]


class Fixed:
    """Batches that are given."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...


def prepare_model(cache: Path) -> Any:
    """The starter as a folder, `model`, and a first adapter, `adapter`, whose b is not zero: all has a gradient."""
    import torch

    from modelworks.adapt import lora, peft
    from modelworks.models.load import load
    from modelworks.models.save import save

    model = load("starter")
    if not (cache / "model").exists():
        save(model, cache / "model")
    torch.manual_seed(0)
    lora.apply(model, lora.LoraConfig(rank=RANK, alpha=ALPHA))
    with torch.no_grad():
        for part in lora.parts_of(model).values():
            part.b_Rr.normal_(std=0.01)
    peft.save(model, cache / "adapter")
    return model


def our_recipe(task: Task) -> Any:
    from modelworks.train.loop import TrainRecipe
    from modelworks.train.optim import OptimRecipe
    from modelworks.train.schedule import ScheduleRecipe

    return TrainRecipe(
        steps=task["steps"],
        clip=CLIP,
        precision=task["precision"],
        optim=OptimRecipe(lr=LR, weight_decay=0.0, beta2=0.999),
        schedule=ScheduleRecipe(name="constant"),
    )


def their_arguments(task: Task, folder: Path) -> dict[str, Any]:
    """What all of TRL's configs take."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": task["precision"] == "bf16",
        "max_steps": task["steps"],
        "per_device_train_batch_size": task["batch"],
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": CLIP,
        "max_length": None,
        "gradient_checkpointing": task["checkpointing"],
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def their_run(trainer: Any) -> dict[str, Any]:
    """Train; the loss and the seconds of each step."""
    import time

    from transformers import TrainerCallback

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    trainer.add_callback(Clock())
    trainer.train()
    return {"losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], "seconds": seconds}


def run(side: str, python: Path | str, script: str, options: argparse.Namespace, **task: Any) -> dict[str, Any]:
    """A run in a process of its own: losses, seconds of each step, and its peak in MiB."""
    task = {"checkpointing": False, "batch": options.batch, "threads": options.threads} | task
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "MODELWORKS_THREADS": str(options.threads)}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), script, "--side", side, "--task", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{side} {task}: {done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(side, task, f"{speed_of(result):.2f} s a step, {result['peak_mib']:.0f} MiB", file=sys.stderr, flush=True)
    return result


def answer(side: Side, task: str) -> int:
    """The other end of `run`."""
    result = side(json.loads(task))
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))
    return 0


def speed_of(result: dict[str, Any]) -> float:
    """Seconds a step: the median of those after warming up, and what was spent before, shared out over all."""
    return statistics.median(result["seconds"][WARM_UP:]) + result.get("before", 0.0) / len(result["seconds"])
