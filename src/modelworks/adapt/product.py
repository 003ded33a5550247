"""x w' with a frozen matrix w, and with a low-rank addition to it, as one step of autograd.

For the gradient of x, autograd would keep w itself; here w is asked for again in the backward pass, so that it can be
one that is de-quantised each time. The addition goes straight into the product's memory: composed of single
operations it would write, keep and read two more arrays of the product's size. Nothing is ever computed for w's own
gradient.

Shapes: N tokens (all leading dimensions), R rows of a matrix (outputs), C columns (inputs), r the addition's rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Matrix = Callable[[torch.dtype], Tensor]
"""Gives w_RC in a dtype; what it gave may be overwritten once it gives another."""


def product(
    x: Tensor,
    matrix: Matrix,
    bias_R: Tensor | None = None,
    a_rC: Tensor | None = None,
    b_Rr: Tensor | None = None,
    scale: float = 1.0,
    z: Tensor | None = None,
) -> Tensor:
    """x w' + bias + scale z a' b' as (..., R), where z is x unless given: x after dropout.

    Computed in x's dtype, or in autocast's where that is on, in which the result comes; a and b may be of another.
    Gradients go to x, bias, a, b and z.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    with torch.autocast(device, enabled=False):
        bias_R, a_rC, b_Rr, z = (None if part is None else part.to(dtype) for part in (bias_R, a_rC, b_Rr, z))
        return _Product.apply(x.to(dtype), matrix, bias_R, a_rC, b_Rr, scale, z)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        matrix: Matrix,
        bias_R: Tensor | None,
        a_rC: Tensor | None,
        b_Rr: Tensor | None,
        scale: float,
        z: Tensor | None,
    ) -> Tensor:
        y = F.linear(x, matrix(x.dtype), bias_R)
        h_Nr = None
        if a_rC is not None and b_Rr is not None:
            h_Nr = _rows(x if z is None else z) @ a_rC.T
            y.view(-1, y.shape[-1]).addmm_(h_Nr, b_Rr.T, alpha=scale)
        # x and z are needed for a's gradient alone.
        ctx.save_for_backward(x if z is None and h_Nr is not None else None, z, a_rC, b_Rr, h_Nr)
        ctx.matrix, ctx.scale, ctx.dtype = matrix, scale, x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (dy,) = grads
        x, z, a_rC, b_Rr, h_Nr = ctx.saved_tensors
        wants_x, _, wants_bias, wants_a, wants_b, _, wants_z = ctx.needs_input_grad
        dy_NR = _rows(dy)
        dx = da = db = dz = None
        if wants_x:
            dx = dy @ ctx.matrix(ctx.dtype)
        if h_Nr is not None:
            dh_Nr = (dy_NR @ b_Rr).mul_(ctx.scale)
            if wants_a:
                da = dh_Nr.T @ _rows(x if z is None else z)
            if wants_b:
                db = (dy_NR.T @ h_Nr).mul_(ctx.scale)
            if z is not None:
                dz = (dh_Nr @ a_rC).view_as(z) if wants_z else None
            elif dx is not None:
                dx.view(-1, dx.shape[-1]).addmm_(dh_Nr, a_rC)
        return dx, None, dy_NR.sum(0) if wants_bias else None, da, db, None, dz


def _rows(x: Tensor) -> Tensor:
    """Leading dimensions as one; a view wherever x allows."""
    return x.reshape(-1, x.shape[-1])
