"""Rollouts sampled elsewhere: Ray actors, each with a copy of the model, on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.engine.generate import Completion, complete
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.parallel.shard import whole

Request = tuple[Sequence[int], Sampling]


class OnRay:
    """A `rollout.Sampler`: each of `workers` actors answers its part of the requests.

    The model goes out once, and before each generation batch only what is learned of it. An answer is drawn by its own
    seed, so it does not depend on which actor gives it. Ray is that at RAY_ADDRESS, or else of this machine. Raises
    ConfigError where Ray is missing or cannot be reached.
    """

    def __init__(self, model: LanguageModel, workers: int, *, batch_size: int = 32) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(f"rollout.workers needs {error.name}: pip install 'modelworks[ray]'") from error
        self._ray = ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")
            try:
                ray.init(
                    address or "local",
                    include_dashboard=None if address else False,
                    logging_level="error",
                    log_to_driver=False,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigError(f"cannot reach the Ray cluster at {address}: {error}") from error
        sent = ray.put(model)
        actor = ray.remote(_Actor)
        self._actors = [actor.remote(sent, batch_size) for _ in range(workers)]

    def __call__(self, model: LanguageModel, requests: Sequence[Request]) -> list[Completion]:
        weights = self._ray.put(_learned(model))
        parts = np.array_split(np.arange(len(requests)), len(self._actors))
        asked = [
            actor.sample.remote(weights, [requests[at] for at in part])
            for actor, part in zip(self._actors, parts)
            if len(part)
        ]
        return [answer for answers in self._ray.get(asked) for answer in answers]


def _learned(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(each).detach().cpu() for name, each in model.named_parameters() if each.requires_grad}


class _Actor:
    def __init__(self, model: LanguageModel, batch_size: int) -> None:
        self._model, self._batch_size = model.eval(), batch_size

    def sample(self, weights: dict[str, Tensor], requests: Sequence[Request]) -> list[Completion]:
        parameters: dict[str, Any] = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, values in weights.items():
                parameters[name].copy_(values)
        prompts, samplings = zip(*requests)
        return complete(self._model, prompts, samplings, batch_size=self._batch_size)
