"""Optimisers and their parameter groups: AdamW, Muon with AdamW, and AdamW with 8-bit states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modelworks.core.errors import ConfigError
from modelworks.train.adam8bit import AdamW8bit
from modelworks.train.muon import Muon


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """How parameters follow their gradients.

    adamw      torch's, one fused kernel (Loshchilov and Hutter 2019, arXiv:1711.05101)
    muon       Muon for the hidden matrices, AdamW at the same rate for embeddings, head, norms and biases
    adamw8bit  AdamW whose moments take a byte each (Dettmers et al. 2022, arXiv:2110.02861)
    """

    name: Literal["adamw", "muon", "adamw8bit"] = "adamw"
    lr: float = 3e-4
    "The peak, which `schedule` takes parts of."
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.95
    "Muon's."
    decay_embeddings: bool = True
    "Norms and biases never decay."

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(f"weight_decay must be 0 or more, got {self.weight_decay}")


def make_optimizers(model: nn.Module, recipe: OptimRecipe) -> list[Optimizer]:
    """The optimisers that step the model's trainable parameters, each in exactly one group.

    Raises ConfigError for a model in which nothing is trainable.
    """
    hidden, embeddings, small = [], [], []
    embedding_ids = _embedding_ids(model)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dim() < 2:
            small.append(parameter)
        elif id(parameter) in embedding_ids:
            embeddings.append(parameter)
        else:
            hidden.append(parameter)
    if not (hidden or embeddings or small):
        raise ConfigError("no parameter of the model is trainable")
    decay = recipe.weight_decay
    groups = [
        {"params": embeddings, "weight_decay": decay if recipe.decay_embeddings else 0.0},
        {"params": small, "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = []
    if recipe.name != "muon":
        groups.insert(0, {"params": hidden, "weight_decay": decay})
    elif hidden:
        optimizers.append(Muon(hidden, lr=recipe.lr, weight_decay=decay, momentum=recipe.momentum))
    if groups := [group for group in groups if group["params"]]:
        betas = (recipe.beta1, recipe.beta2)
        if recipe.name == "adamw8bit":
            optimizers.append(AdamW8bit(groups, lr=recipe.lr, betas=betas, eps=recipe.eps))
        else:
            optimizers.append(torch.optim.AdamW(groups, lr=recipe.lr, betas=betas, eps=recipe.eps, fused=True))
    return optimizers


def _embedding_ids(model: nn.Module) -> set[int]:
    """Tables of embeddings, and the head: their rows are tokens', so that they are no maps of a hidden space."""

    def found() -> Iterator[Tensor]:
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding) or name.rpartition(".")[2] == "lm_head":
                yield from module.parameters(recurse=False)

    return {id(parameter) for parameter in found()}


def state_bytes(optimizers: list[Optimizer]) -> int:
    """Memory that the optimisers' states take."""
    held = (value for optimizer in optimizers for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in held if isinstance(value, Tensor))
