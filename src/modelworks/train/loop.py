"""The one training loop, through which every objective runs.

    for step in train(model, batches, objective, recipe):
        print(step.step, step.loss)

It is a generator: whoever prints, logs or plots consumes its records, and nothing is called back. A step divides the
loss, summed over all micro-batches and ranks, by all that counts in them, so that accumulation never changes it
(transformers#34191). Each step ends whole: taken, or skipped with its reason.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelworks.core.config import as_dict
from modelworks.core.errors import ConfigError, Stopped, TrainingError
from modelworks.data.batch import Batch, BatchStream
from modelworks.kernels.memory import kept_memory
from modelworks.models.base import evaluating
from modelworks.objectives.base import Objective, SteppedObjective
from modelworks.parallel.ranks import (
    gather_from_ranks,
    max_over_ranks,
    rank,
    sum_over_ranks,
    wait_for_ranks,
    world_size,
)
from modelworks.parallel.shard import copy_state, load_optimizer_state, shard, spread, whole
from modelworks.train.checkpoint import Checkpoints, rng_state, set_rng_state
from modelworks.train.guard import Guard, GuardRecipe
from modelworks.train.optim import OptimRecipe, make_optimizers
from modelworks.train.schedule import ScheduleRecipe

Evaluate = Callable[[nn.Module], Mapping[str, Any]]
"""What is asked of the model on a schedule: numbers (held-out losses, scores) and texts (samples), by name."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """What the loop needs to know. A kind of run adds its model, its data and its objective."""

    steps: int = 0
    "0: as many as the data makes, for a run that knows."
    accumulate: int = 1
    "Micro-batches of a step."
    clip: float = 1.0
    "The longest gradient, as its norm over all parameters; 0: any."
    precision: Literal["fp32", "bf16"] = "fp32"
    "bf16: products in bfloat16 (autocast); weights, their gradients and sums stay in float32."
    recompute: bool = False
    "Compute each layer's activations anew in the backward pass instead of keeping them."
    compile: bool = False
    "Compile each layer."
    parallel: Literal["ddp", "fsdp"] = "ddp"
    "Of several processes each has the whole model (ddp), or its part of it (fsdp)."
    ema: float = 0.0
    "Average the weights with this decay; what is evaluated and left at the end are the averages. 0: no average."
    seed: int = 0
    evaluate_every: int = 0
    "Steps between evaluations, of which there is one at the end, too; 0: none."
    save_every: int = 0
    "Steps between checkpoints, of which there is one at the end, too; 0: no other."
    keep: int = 2
    "Checkpoints that stay."
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    guard: GuardRecipe = field(default_factory=GuardRecipe)

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("accumulate", 1), ("keep", 1), ("evaluate_every", 0), ("save_every", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not 0 <= self.clip < math.inf:
            raise ConfigError(f"clip must be 0 or more, got {self.clip}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be from 0 to below 1, got {self.ema}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happened in one step, over all ranks."""

    step: int
    """From 1."""
    loss: float | None
    """None where nothing counted."""
    metrics: Mapping[str, float]
    """The objective's."""
    weight: float
    """How much counted: tokens by their weights, pairs or rows."""
    tokens: int
    """Tokens that the model read, padding not counted."""
    lr: float
    grad_norm: float | None
    """Before clipping."""
    seconds: float
    skipped: str | None = None
    """Why the step was not taken."""
    rolled_back_to: int | None = None
    """The step whose checkpoint the run went back to, after too many that were skipped."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)


def train(
    model: nn.Module,
    batches: BatchStream,
    objective: Objective,
    recipe: TrainRecipe,
    *,
    evaluate: Evaluate | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
) -> Iterator[Step]:
    """Train until `recipe.steps` or the end of the batches; yield a record of each step.

    With `checkpoints`, the state is saved on schedule and at the end. With `resume` too, the run goes on from the last
    checkpoint, if there is one, bit for bit as if it had never stopped. `evaluate` draws from the random generators
    without moving them. At the end the model has its last weights, or their average, and is in the mode it came in.

    SIGTERM and SIGINT let the step end, save, and raise Stopped. Raises ConfigError where there are checkpoints but no
    `resume`, and TrainingError for a checkpoint that cannot be written or read, and where steps are skipped again and
    again and there is nothing left to go back to.
    """
    if not recipe.steps:
        raise ConfigError("steps is 0; state how many to take")
    if checkpoints is not None and not resume and checkpoints.steps():
        raise ConfigError(f"{checkpoints.folder}: there is a run already; resume it, or name another folder")
    trainer = Trainer(model, batches, objective, recipe)
    if checkpoints is not None and (state := checkpoints.load(recipe=as_dict(recipe), model=trainer.learned())):
        trainer.restore(state)
    saved_at = trainer.steps_done

    def save() -> None:
        nonlocal saved_at
        if checkpoints is not None and saved_at != trainer.steps_done:
            state = trainer.state()
            if rank() == 0:
                checkpoints.save(trainer.steps_done, state, recipe=as_dict(recipe))
            saved_at = trainer.steps_done
            wait_for_ranks()

    with kept_memory(), _prepared(model, recipe), _stop_on_signals() as stops:
        while trainer.steps_done < recipe.steps:
            if name := stops():
                save()
                kept = f"saved in {checkpoints.folder}; resume it to go on" if checkpoints else "nothing was saved"
                raise Stopped(f"{name} came after step {trainer.steps_done} of {recipe.steps}: {kept}")
            record = trainer.step()
            if record is None:
                break
            if trainer.guard.gives_up:
                trainer.go_back(checkpoints, record.skipped)
                yield replace(record, rolled_back_to=trainer.steps_done)
                continue
            at, last = record.step, record.step == recipe.steps
            if evaluate and recipe.evaluate_every and (last or at % recipe.evaluate_every == 0):
                record = replace(record, evaluation=trainer.ask(evaluate))
            # Amid steps that are skipped there is nothing new, and it may be what the run has to go back beyond.
            if recipe.save_every and at % recipe.save_every == 0 and not trainer.guard.skipped:
                save()
            yield record
        save()
        trainer.adopt_average()


class Trainer:
    """A run's state, and how one step changes it; `train` decides when to save, evaluate and stop."""

    def __init__(self, model: nn.Module, batches: BatchStream, objective: Objective, recipe: TrainRecipe) -> None:
        self.model, self.objective, self.recipe = model, objective, recipe
        self.steps_done = 0
        self.rollbacks = 0
        self.guard = Guard(recipe.guard)
        if world_size() > 1:
            if recipe.optim.name == "adamw8bit":
                raise ConfigError(
                    "optim.name: adamw8bit keeps its states in blocks, which several processes cannot share"
                )
            shard(model, repeated_layers(model), recipe.parallel)
        self.optimizers = make_optimizers(model, recipe.optim)
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._device = self._parameters[0].device
        self._average = [p.detach().clone() for p in self._parameters] if recipe.ema else []
        self._stream = batches
        self._batches: Iterator[Batch] | None = None

    def step(self) -> Step | None:
        """Take one step, or skip it; None at the end of the batches."""
        began = time.perf_counter()
        recipe = self.recipe
        if self._batches is None:
            self._batches = iter(self._stream)
        batches = [self._to_device(batch) for batch in islice(self._batches, recipe.accumulate)]
        if not batches:
            return None
        lr = recipe.optim.lr * recipe.schedule.factor(self.steps_done, recipe.steps)
        weights = [self.objective.weight(batch) for batch in batches]
        counts = torch.stack([torch.stack(weights).double().sum(), _tokens(batches, self._device)])
        weight, tokens = sum_over_ranks(counts).tolist()
        self.steps_done += 1
        record = partial(Step, step=self.steps_done, weight=weight, tokens=round(tokens), lr=lr)
        if not 0 < weight < math.inf:
            reason = "nothing in it counts" if weight == 0 else f"what counts in it is {weight}"
            seconds = time.perf_counter() - began
            return record(loss=None, metrics={}, grad_norm=None, seconds=seconds, skipped=reason)
        if world_size() == 1:  # elsewhere every rank has to take part
            batches = [batch for batch, counted in zip(batches, weights) if counted]
        loss, metrics = self._backward(batches, weight)
        grad_norm = self._clip()
        skipped = self.guard.reason_to_skip(loss=loss, grad_norm=grad_norm)
        if skipped is None:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.step()
            self._move_average()
        if isinstance(self.objective, SteppedObjective):
            self.objective.after_step(self.model, taken=skipped is None)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        return record(loss=loss, metrics=metrics, grad_norm=grad_norm, seconds=seconds, skipped=skipped)

    def _backward(self, batches: list[Batch], weight: float) -> tuple[float, dict[str, float]]:
        """Leave the gradient of the mean loss in the parameters; return the mean loss and metrics, of all ranks."""
        # Averaged over ranks, a gradient of this is their sum.
        scale = world_size() / weight
        loss_sum = torch.zeros((), dtype=torch.double, device=self._device)
        sums: dict[str, list[Tensor]] = {}
        # Around all micro-batches, so that each weight is rounded once a step.
        with autocast(self._device, self.recipe.precision):
            for batch in batches:
                loss, metrics = self.objective(self.model, batch)
                with torch.autocast(self._device.type, enabled=False):
                    (loss * scale).backward()
                loss_sum += loss.detach()
                for name, ratio in metrics.items():
                    sums.setdefault(name, []).append(torch.stack([ratio.total.double(), ratio.weight.double()]))
        pairs = [torch.stack(found).sum(0) for found in sums.values()]
        total, *flat = sum_over_ranks(torch.cat([loss_sum[None], *pairs])).tolist()
        means = {name: flat[2 * at] / flat[2 * at + 1] for at, name in enumerate(sums) if flat[2 * at + 1]}
        return total / weight, means

    def _clip(self) -> float:
        """The gradient's norm, and no longer gradient than the recipe has it."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        if self.recipe.clip:
            nn.utils.clip_grads_with_norm_(self._parameters, self.recipe.clip, norm)
        return float(norm)

    def _move_average(self) -> None:
        if self._average:
            # The first steps count for less than their decay would have them (as in TensorFlow's moving averages).
            decay = min(self.recipe.ema, self.steps_done / (9 + self.steps_done))
            with torch.no_grad():
                torch._foreach_lerp_(self._average, self._parameters, 1 - decay)

    def adopt_average(self) -> None:
        """Give the model the averaged weights for good, where the recipe has an average."""
        if self._average:
            self._swap_average()

    def _swap_average(self) -> None:
        with torch.no_grad():
            for parameter, average in zip(self._parameters, self._average):
                kept = parameter.clone()
                parameter.copy_(average)
                average.copy_(kept)

    def ask(self, evaluate: Evaluate) -> Mapping[str, Any]:
        """What `evaluate` says of the model (of its averaged weights) in evaluation mode, training undisturbed."""
        drawn = rng_state()
        if self._average:
            self._swap_average()
        try:
            with evaluating(self.model), torch.no_grad():
                return evaluate(self.model)
        finally:
            if self._average:
                self._swap_average()
            set_rng_state(drawn)

    def learned(self) -> dict[str, Tensor]:
        """The model's state without parameters that are frozen, which are where they were loaded from."""
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in frozen}

    def state(self) -> dict[str, Any]:
        """All that a run on any number of ranks needs to go on; tensors are whole, and may be those of the run."""
        return {
            "step": self.steps_done,
            "rollbacks": self.rollbacks,
            "model": whole(self.learned()),
            "optimizers": [whole(optimizer.state_dict()) for optimizer in self.optimizers],
            "average": whole(self._average),
            "guard": self.guard.state(),
            "rng": gather_from_ranks(rng_state()),
            "data": self._stream.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; its place in the data included."""
        self._restore_weights(state)
        self.rollbacks = state["rollbacks"]
        self._stream.restore(state["data"])
        self._batches = None

    def _restore_weights(self, state: Mapping[str, Any]) -> None:
        self.steps_done = state["step"]
        copy_state(self.learned(), state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            load_optimizer_state(optimizer, saved)
        for average, saved in zip(self._average, state["average"], strict=True):
            average.copy_(spread(saved, average))
        self.guard.restore(state["guard"])
        # With other ranks than before nobody can draw what would have been drawn.
        set_rng_state(state["rng"][rank() % len(state["rng"])])

    def go_back(self, checkpoints: Checkpoints | None, reason: str | None) -> None:
        """Take the weights of the last checkpoint and other data than led astray (Chowdhery et al. 2022, section 5.1).

        Raises TrainingError where there is no checkpoint, or the run went back too often.
        """
        state = None
        if checkpoints is not None and self.rollbacks < self.recipe.guard.rollbacks:
            state = checkpoints.load(recipe=as_dict(self.recipe), model=self.learned())
        if state is None:
            raise TrainingError(
                f"step {self.steps_done}: {self.guard.skipped} steps in a row could not be taken (the last: {reason}), "
                f"after going back {self.rollbacks} times; try a lower optim.lr or a longer schedule.warmup"
            )
        self._restore_weights(state)
        self.rollbacks += 1
        self.guard.skipped = 0

    def _to_device(self, batch: Batch) -> Batch:
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.items()}


def mean_loss(
    model: nn.Module, batches: Iterable[Batch], objective: Objective, *, precision: Literal["fp32", "bf16"] = "fp32"
) -> float:
    """The loss of a model over all batches and ranks, in evaluation mode, without learning from them; NaN for none."""
    return measure(model, batches, objective, precision=precision)["loss"]


def measure(
    model: nn.Module, batches: Iterable[Batch], objective: Objective, *, precision: Literal["fp32", "bf16"] = "fp32"
) -> dict[str, float]:
    """`mean_loss` as `loss`, and the objective's metrics by name, those alone that anything counted in."""
    device = next(model.parameters()).device
    sums: dict[str, Tensor] = {"loss": torch.zeros(2, dtype=torch.double, device=device)}
    with evaluating(model), torch.no_grad(), autocast(device, precision):
        for batch in batches:
            moved = {name: tensor.to(device) for name, tensor in batch.items()}
            weight = objective.weight(moved)
            if not weight and world_size() == 1:  # of several ranks each has to take part
                continue
            loss, metrics = objective(model, moved)
            for name, pair in (("loss", (loss, weight)), *metrics.items()):
                sums[name] = sums.get(name, 0) + torch.stack([part.double() for part in pair])
    totals = sum_over_ranks(torch.stack(list(sums.values()))).tolist()
    means = {name: total / count for name, (total, count) in zip(sums, totals) if count}
    return {"loss": math.nan, **means}


def autocast(device: torch.device, precision: Literal["fp32", "bf16"]) -> AbstractContextManager[Any]:
    """Within it, products are computed as a recipe's `precision` says."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _tokens(batches: list[Batch], device: torch.device) -> Tensor:
    count = torch.zeros((), dtype=torch.double, device=device)
    for batch in batches:
        if (mask_BT := batch.get("attention_mask")) is not None:
            count += mask_BT.count_nonzero()
        elif (ids_BT := batch.get("input_ids")) is not None:
            count += ids_BT.numel()
    return count


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that a model is a stack of: the members of its outermost module lists."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else repeated_layers(child)
    return found


@contextmanager
def _prepared(model: nn.Module, recipe: TrainRecipe) -> Iterator[None]:
    """The model in training mode, its layers recomputed and compiled as the recipe has it; afterwards as it was."""
    was_training = model.training
    model.train()
    with ExitStack() as undo:
        undo.callback(model.train, was_training)
        for layer in repeated_layers(model) if recipe.recompute or recipe.compile else ():
            if recipe.recompute:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
                undo.callback(delattr, layer, "forward")
            if recipe.compile:
                layer.compile()
                undo.callback(setattr, layer, "_compiled_call_impl", None)
        yield


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], str | None]]:
    """Tells the name of the signal, SIGTERM or SIGINT, that came on any rank; a second one acts as without us."""
    came = 0
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = number
        restore()

    def name() -> str | None:
        number = int(max_over_ranks(torch.tensor(came))) if world_size() > 1 else came
        return signal.Signals(number).name if number else None

    for number in before:
        signal.signal(number, note)
    try:
        yield name
    finally:
        restore()
