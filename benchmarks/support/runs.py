"""Training runs of a benchmark, each kept when it is done, so that one that was cut goes on with the next run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from modelworks.core.log import console
from modelworks.core.paths import atomic_file
from modelworks.data.batch import BatchStream
from modelworks.data.rows import TokenRows
from modelworks.data.shards import Shards
from modelworks.data.stream import Stream
from modelworks.models.base import LanguageModel
from modelworks.objectives.base import Objective
from modelworks.objectives.causal_lm import CausalLM
from modelworks.train.loop import TrainRecipe, mean_loss, train


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a JSON file holds, or else what `make` returns, which is written into it."""
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    found = make()
    with atomic_file(path) as file:
        json.dump(found, file, indent=1)
    return found


def batches(shards: Shards, seq_len: int, batch_size: int, *, seed: int | None, epochs: int | None = None) -> Stream:
    return Stream(TokenRows(shards, seq_len, seed), batch_size, epochs=epochs)


def train_quietly(
    name: str, model: LanguageModel, stream: BatchStream, objective: Objective, recipe: TrainRecipe
) -> dict[str, float]:
    """Train to the end, saying now and then how it goes; tokens and seconds of training."""
    began, tokens, every = time.monotonic(), 0, max(1, recipe.steps // 10)
    for step in train(model, stream, objective, recipe):
        tokens += step.tokens
        if step.step % every == 0:
            numbers = ", ".join(f"{key} {value:.3f}" for key, value in step.metrics.items())
            seconds = time.monotonic() - began
            console().print(
                f"{name}: step {step.step} of {recipe.steps}, {seconds:.0f} s, {numbers}",
                highlight=False,
                soft_wrap=True,
            )
    return {"tokens": tokens, "seconds": round(time.monotonic() - began, 1)}


def held_out_loss(model: LanguageModel, held: Shards, seq_len: int) -> float:
    """The mean loss of a held-out token, over at most 130,000 of them from all documents, in float32."""
    rows = batches(held, seq_len, 8, seed=0, epochs=1)
    loss = mean_loss(model, islice(rows, 130_000 // (8 * seq_len)), CausalLM())
    assert math.isfinite(loss)
    return loss


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
