"""A run: a recipe, and the folder that keeps all that comes of it.

recipe.toml        the resolved recipe
metrics.jsonl      a line on the run, then one a step (see `Record`)
step-00000100/     checkpoints
model/             the model at the end, which `load` reads, with its lineage
tensorboard/       event files, where they are asked for
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from modelworks.core.config import as_dict, read_values, resolve, to_toml
from modelworks.core.errors import ConfigError
from modelworks.core.lineage import Lineage
from modelworks.data.batch import BatchStream
from modelworks.models.base import Pretrained
from modelworks.models.save import save
from modelworks.objectives.base import Objective
from modelworks.train.checkpoint import Checkpoints, seed_everything
from modelworks.train.loop import Evaluate, TrainRecipe, train
from modelworks.train.record import METRICS, Record, Recorder
from modelworks.train.speed import flops_per_token, matmul_peak

RECIPE, MODEL = "recipe.toml", "model"

# A kind of run is the class of its recipe: one line here.
KINDS = {
    "pretrain": "modelworks.train.language:LanguageRecipe",
    "sft": "modelworks.train.language:LanguageRecipe",
}


@dataclass
class Job:
    """What a recipe comes to: all that the loop needs, and where it comes from."""

    model: Pretrained
    batches: BatchStream
    objective: Objective
    steps: int | None = None
    """How many steps the batches make, where they end and the recipe leaves it to them."""
    evaluate: Evaluate | None = None
    seq_len: int = 0
    """The longest row, for the estimate of FLOPs."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Each data set's name and hash."""
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunRecipe(TrainRecipe):
    """A recipe that says what is trained on what."""

    kind: str

    def prepare(self) -> Job:
        """Load and build; raise ModelworksError for what cannot be had."""
        raise NotImplementedError


def read_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> RunRecipe:
    """The recipe of a TOML file, with overrides such as `optim.lr=1e-5`; raise ConfigError that names each fault."""
    file = Path(path)
    values = read_values(file, overrides)
    kind = values.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{file}: kind is {kind!r}; there are {', '.join(KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    try:
        return resolve(getattr(importlib.import_module(module), name), values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def run(
    recipe: RunRecipe,
    folder: str | Path,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    watch: Callable[[Record], None] = lambda record: None,
) -> Path:
    """Train by a recipe in a folder, and return that of the finished model.

    `watch` is told of every step. Raises ConfigError for a folder with a run in it, unless it is to be resumed, or
    where another is at work, and what `train` raises.
    """
    home = Path(folder)
    with Checkpoints(home, keep=recipe.keep) as checkpoints:
        if not resume and (home / METRICS).exists():
            raise ConfigError(f"{home}: there is a run already; go on with --resume, or name another folder with --out")
        seed_everything(recipe.seed)
        job = recipe.prepare()
        if not recipe.steps:
            if job.steps is None:
                raise ConfigError("steps is 0, but the data has no end; state steps or data.epochs")
            recipe = replace(recipe, steps=job.steps)
        (home / RECIPE).write_text(to_toml(recipe), encoding="utf-8")
        about = _about(job, recipe)
        done = max(checkpoints.steps(), default=0)
        last: Record | None = None
        with Recorder(home, about, steps_done=done, tensorboard=tensorboard) as recorder:
            for step in train(
                job.model,
                job.batches,
                job.objective,
                recipe,
                evaluate=job.evaluate,
                checkpoints=checkpoints,
                resume=resume,
            ):
                last = recorder.add(step)
                watch(last)
        return save(job.model, home / MODEL, lineage=_lineage(job, recipe, last))


def _about(job: Job, recipe: RunRecipe) -> dict[str, Any]:
    """The first line of the metrics."""
    parameters = list(job.model.parameters())
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    return {
        "kind": recipe.kind,
        "model": type(job.model).__name__,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "steps": recipe.steps,
        "flops_per_token": flops_per_token(job.model, job.seq_len),
        "peak_flops": matmul_peak(dtype, parameters[0].device),
        "precision": recipe.precision,
        "threads": torch.get_num_threads(),
        "device": str(parameters[0].device),
        "parents": list(job.parents),
        "data": dict(job.data),
    }


def _lineage(job: Job, recipe: RunRecipe, last: Record | None) -> Lineage:
    numbers = {} if last is None else {"loss": last.step.loss, **last.step.metrics}
    if last is not None:
        numbers |= {f"evaluation {name}": value for name, value in last.step.evaluation.items()}
    return Lineage(
        parents=job.parents,
        recipe=as_dict(recipe),
        data=job.data,
        seed=recipe.seed,
        metrics={name: float(value) for name, value in numbers.items() if isinstance(value, int | float)},
    )
