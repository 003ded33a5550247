"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks").

The momentum of each matrix is made nearly orthogonal, so that every direction of it moves alike. Of the two scalings
in use this is Moonlight's (Liu et al. 2025, arXiv:2502.16982, eq. 4): 0.2 sqrt(max(rows, columns)), by which an entry
moves about as far as under AdamW, so that one learning rate and one weight decay serve both.

Shapes: B matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from modelworks.parallel.shard import spread, whole

# A quintic that takes singular values from (0, 1] to about 1: steep at 0, and only near 1 at the end (Jordan 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalise(g_BRC: Tensor, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest matrices with singular values of about 1 (0.7 to 1.2), by Newton and Schulz's iteration."""
    a, b, c = _QUINTIC
    wide = g_BRC.shape[-2] <= g_BRC.shape[-1]
    x_BRC = (g_BRC if wide else g_BRC.mT).to(dtype)
    x_BRC = x_BRC / x_BRC.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram_BRR = x_BRC @ x_BRC.mT
        poly_BRR = torch.baddbmm(gram_BRR, gram_BRR, gram_BRR, beta=b, alpha=c)
        x_BRC = torch.baddbmm(x_BRC, poly_BRR, x_BRC, beta=a)
    return (x_BRC if wide else x_BRC.mT).to(g_BRC.dtype)


class Muon(Optimizer):
    """Steps matrices, and stacks of them (experts: ..., R, C), with Nesterov momentum and decoupled weight decay."""

    def __init__(self, params: Iterable[Any], *, lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() < 2:
                    raise ValueError(f"Muon steps matrices; a parameter is {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loop evaluates the loss"
        for group in self.param_groups:
            lr, mu = group["lr"], group["momentum"]
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - mu)
                alike[parameter.shape[-2:]].append((parameter, parameter.grad.lerp(state["momentum"], mu)))
            for (rows, columns), pairs in alike.items():  # one batched product for all of a shape
                # A matrix is made orthogonal as a whole, where its parts are on several ranks by each of them.
                stacked_BRC = torch.cat([whole(update).reshape(-1, rows, columns) for _, update in pairs])
                updates_BRC = orthogonalise(stacked_BRC) * (0.2 * max(rows, columns) ** 0.5)
                sizes = [update.numel() // (rows * columns) for _, update in pairs]
                for (parameter, _), update in zip(pairs, updates_BRC.split(sizes)):
                    parameter.mul_(1 - lr * group["weight_decay"])
                    parameter.sub_(spread(update.view(parameter.shape), parameter), alpha=lr)
