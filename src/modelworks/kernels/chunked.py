"""A sum over rows, a chunk at a time, with its gradient computed in the same pass.

A loss of a language model's head has rows of logits far wider than what goes in. Here no more than one chunk of what
`terms` computes ever stands: each chunk's gradient is taken at once, by autograd, and only the gradients of the inputs
are kept for the backward pass.

Shapes: N rows, n rows of a chunk, M sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def chunked_sum(
    terms: Callable[[slice, Tensor, Sequence[Tensor]], Tensor], x_NC: Tensor, shared: Sequence[Tensor], chunk: int
) -> Tensor:
    """The sum over chunks of `terms(rows, x_NC[rows], shared)`, sums_M, of which the first alone has a gradient.

    The gradient goes to `x_NC` and to `shared` (such as the head's matrix), as `terms` would have it over all rows.
    What else `terms` uses is a constant.
    """
    sums_M: Tensor = _ChunkedSum.apply(terms, chunk, torch.is_grad_enabled(), x_NC, *shared)
    return sums_M


class _ChunkedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, terms: Any, chunk: int, learns: bool, x_NC: Tensor, *shared: Tensor) -> Tensor:
        needed = [learns and wanted for wanted in ctx.needs_input_grad[3:]]
        leaves = [tensor.detach().requires_grad_(wanted) for tensor, wanted in zip(shared, needed[1:], strict=True)]
        gradients = [
            torch.zeros_like(tensor) if wanted else None for tensor, wanted in zip((x_NC, *shared), needed, strict=True)
        ]
        sums_M: Tensor | None = None
        for at in range(0, max(len(x_NC), 1), chunk):  # of no rows at all too, for the shape of its sums
            rows = slice(at, at + chunk)
            x_nC = x_NC[rows].detach().requires_grad_(needed[0])
            with torch.set_grad_enabled(any(needed)):
                part_M = terms(rows, x_nC, leaves)
                loss = part_M[0]
            if loss.requires_grad:
                wanted_leaves = [leaf for leaf, wanted in zip((x_nC, *leaves), needed, strict=True) if wanted]
                found = iter(torch.autograd.grad(loss, wanted_leaves, allow_unused=True))
                for index, total in enumerate(gradients):
                    if total is not None and (gradient := next(found)) is not None:
                        (total[rows] if index == 0 else total).add_(gradient)
            sums_M = part_M.detach() if sums_M is None else sums_M + part_M.detach()
        ctx.save_for_backward(*gradients)
        assert sums_M is not None
        return sums_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale_M: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if gradient is None else gradient * scale_M[0] for gradient in ctx.saved_tensors)
        return (None, None, None, *gradients)
