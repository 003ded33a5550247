"""A run: a recipe, and the folder that keeps all that comes of it.

recipe.toml        the resolved recipe
metrics.jsonl      a line on the run, then one a step (see `Record`)
answers.jsonl      a line an answer, where the run samples (see `AnswerLog`)
step-00000100/     checkpoints
model/             the model at the end, which `load` reads, with its lineage
adapter/           instead of it, where an adapter was trained
tensorboard/       event files, where they are asked for
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modelworks.adapt import lora, peft
from modelworks.core.config import as_dict, read_values, resolve, to_toml
from modelworks.core.errors import ConfigError, Stopped
from modelworks.core.lineage import Lineage
from modelworks.data.batch import BatchStream
from modelworks.models.base import LanguageModel, Pretrained
from modelworks.models.heads import ActorCritic, with_value_head
from modelworks.models.registry import architecture_of
from modelworks.models.save import save
from modelworks.objectives.base import Objective
from modelworks.parallel.ranks import rank, wait_for_ranks, world_size
from modelworks.parallel.shard import joined, whole
from modelworks.scaling.machine import matmul_peak
from modelworks.scaling.plan import flops_per_token
from modelworks.train.answer_log import AnswerLog
from modelworks.train.checkpoint import Checkpoints, seed_everything
from modelworks.train.loop import Evaluate, TrainRecipe, train
from modelworks.train.record import METRICS, Record, Recorder
from modelworks.train.rollout import Generation, Rollouts, Watch

RECIPE, MODEL, ADAPTER = "recipe.toml", "model", "adapter"

# A kind of run is the class of its recipe: one line here.
KINDS = {
    "pretrain": "modelworks.train.language:LanguageRecipe",
    "sft": "modelworks.train.language:LanguageRecipe",
    "distill": "modelworks.train.distill:DistillRecipe",
    "ppo": "modelworks.train.policy:PPORecipe",
    "grpo": "modelworks.train.policy:GRPORecipe",
    "lora": "modelworks.train.adapters:AdapterRecipe",
    "qlora": "modelworks.train.adapters:AdapterRecipe",
    "dpo": "modelworks.train.preference:PreferenceRecipe",
    "kto": "modelworks.train.preference:KTORecipe",
    "reward": "modelworks.train.preference:RewardRecipe",
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
    bakes: bool = False
    """What is left is a whole model, though an adapter was trained."""


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
    audit: Watch | None = None,
) -> Path:
    """Train by a recipe in a folder, and return that of the finished model.

    Under torchrun all processes train together; the first of them writes, and tells `watch` of every step. `audit` is
    shown every generation batch of a run that samples; where it gives a reason to end, the model is saved as it then
    is, and Stopped is raised with that reason. Raises ConfigError for a folder with a run in it, unless it is to be
    resumed, or where another is at work, for an audit where nothing is sampled, and what `train` raises.
    """
    home = Path(folder)
    with joined(), Checkpoints(home, keep=recipe.keep) as checkpoints, ExitStack() as stack:
        if not resume and (home / METRICS).exists():
            raise ConfigError(f"{home}: there is a run already; go on with --resume, or name another folder with --out")
        wait_for_ranks()  # before any of them writes there
        seed_everything(recipe.seed)
        job = recipe.prepare()
        if audit is not None and not isinstance(job.batches, Rollouts):
            raise ConfigError(f"a run of kind {recipe.kind} samples nothing that could be audited")
        if rank() > 0:
            seed_everything(recipe.seed + rank())  # the same weights, but other dropout
        if not recipe.steps:
            if job.steps is None:
                raise ConfigError("steps is 0, but the data has no end; state steps or data.epochs")
            recipe = replace(recipe, steps=job.steps)
        speaks = _without_head(job.model)
        _, family = architecture_of(speaks)
        about = _about(job, recipe)
        recorder: Recorder | None = None
        if rank() == 0:
            (home / RECIPE).write_text(to_toml(recipe), encoding="utf-8")
            done = max(checkpoints.steps(), default=0)
            recorder = stack.enter_context(Recorder(home, about, steps_done=done, tensorboard=tensorboard))
            if isinstance(job.batches, Rollouts):
                answers = stack.enter_context(AnswerLog(home, steps_done=done))
                job.batches.watch = partial(_watched, answers, audit)
        last: Record | None = None
        for step in train(
            job.model,
            job.batches,
            job.objective,
            recipe,
            evaluate=job.evaluate,
            checkpoints=checkpoints,
            resume=resume,
        ):
            if recorder is not None:
                last = recorder.add(step)
                watch(last)
        model = job.model
        if job.bakes:
            lora.bake(model)
        if world_size() > 1:
            weights = whole(job.model.state_dict())
            model = fresh = family.build(speaks.config)
            fresh.tokenizer, fresh.generation_defaults = speaks.tokenizer, speaks.generation_defaults
            if isinstance(job.model, ActorCritic) and isinstance(fresh, LanguageModel):
                model = ActorCritic(fresh)
            model.load_state_dict(weights)
        home /= ADAPTER if lora.names_of(model) else MODEL
        if rank() == 0:
            _save(model, home, _lineage(job, recipe, last))
        wait_for_ranks()
        if isinstance(job.batches, Rollouts) and (reason := job.batches.why_ended) is not None:
            raise Stopped(f"{reason}; the model as it then was is in {home}")
        return home


def _watched(answers: AnswerLog, audit: Watch | None, generation: Generation) -> str | None:
    answers.add(generation)
    return None if audit is None else audit(generation)


def _without_head(model: Pretrained) -> Pretrained:
    return model.language_model if isinstance(model, ActorCritic) else model


def _save(model: Pretrained, home: Path, lineage: Lineage) -> None:
    """A folder of the model or of the adapter on it, with the value head where it has one."""

    def write(folder: Path) -> Path:
        return (peft.save if lora.names_of(model) else save)(_without_head(model), folder, lineage=lineage)

    if isinstance(model, ActorCritic):
        with_value_head(model, home, write)
    else:
        write(home)


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
