"""AdamW whose two moments take a byte each (Dettmers et al. 2022, arXiv:2110.02861).

Each block of 2,048 values is divided by its largest magnitude and rounded to one of 256 values between -1 and 1 that
lie denser towards 0: dynamic quantisation (section 1.3), whose leading zero bits are a decimal exponent and whose
others are a linear fraction. The second moment, never negative, spends the sign's bit on the fraction (section 2.2).

Unlike the paper's, the second moment is kept as its root: of a squared ratio of magnitudes less fits into the seven
decades of a byte, and an update is divided by what is kept, so that a rare token's row, in one block with a frequent
one's, would be thrown far away where its moment rounds to 0.

Shapes: K blocks, b values of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

BLOCK = 2048
# Smaller tensors (norms, biases) would save nothing and lose precision.
SMALLEST = 4096
_EXPONENTS = 7


@functools.cache
def code(*, signed: bool) -> Tensor:
    """The 256 values of a byte, ascending."""
    values = [0.0, 1.0]
    for exponent in range(_EXPONENTS):
        # Fractions halve the range .1 to 1 once more with each zero bit that the exponent does not need.
        steps = 2**exponent if signed else 2 ** (exponent + 1)
        edges = torch.linspace(0.1, 1.0, steps + 1, dtype=torch.float64)
        fractions = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - _EXPONENTS + 1)
        values += fractions.tolist()
        if signed:
            values += (-fractions).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32)


class Quantised(NamedTuple):
    """A tensor in blocks: a byte a value, and each block's largest magnitude."""

    bytes_Kb: Tensor
    largest_K: Tensor


def quantise(values: Tensor, *, signed: bool) -> Quantised:
    """Round to the nearest value of `code`, block by block; a last block that is not full is padded with zeros."""
    flat = values.flatten()
    blocks_Kb = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    largest_K = blocks_Kb.abs().amax(1)
    scaled_Kb = blocks_Kb / largest_K.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    codes = code(signed=signed).to(values.device)
    between = (codes[1:] + codes[:-1]) / 2
    return Quantised(torch.bucketize(scaled_Kb, between, out_int32=True).to(torch.uint8), largest_K)


def dequantise(quantised: Quantised, *, signed: bool, like: Tensor) -> Tensor:
    """The values that were rounded, in the shape of `like`."""
    codes = code(signed=signed).to(like.device)
    values_Kb = codes[quantised.bytes_Kb.int()] * quantised.largest_K[:, None]
    return values_Kb.flatten()[: like.numel()].view(like.shape)


class AdamW8bit(Optimizer):
    """AdamW with 8-bit moments for tensors of at least `SMALLEST` values, float32 ones for the rest."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for state in self.state.values():  # torch makes every tensor of a state what its parameter is
            for name in ("mean_bytes", "root_bytes"):
                if name in state:
                    state[name] = state[name].to(torch.uint8)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loop evaluates the loss"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad.float(), self.state[parameter], group)

    def _step(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]
        is_small = parameter.numel() < SMALLEST
        if not state:
            state["step"] = 0
            zeros = torch.zeros_like(gradient)
            for name, signed in (("mean", True), ("root", False)):
                _write(state, name, zeros.clone() if is_small else quantise(zeros, signed=signed))
        state["step"] += 1
        mean = _read(state, "mean", signed=True, like=gradient).lerp_(gradient, 1 - beta1)
        root = _read(state, "root", signed=False, like=gradient)
        root = root.square_().lerp_(gradient.square(), 1 - beta2).sqrt_()
        deviation = (root / (1 - beta2 ** state["step"]) ** 0.5).add_(group["eps"])
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.addcdiv_(mean, deviation, value=-lr / (1 - beta1 ** state["step"]))
        _write(state, "mean", mean if is_small else quantise(mean, signed=True))
        _write(state, "root", root if is_small else quantise(root, signed=False))


# A state holds plain tensors, which is what checkpoints write.
def _write(state: dict[str, Any], name: str, value: Tensor | Quantised) -> None:
    if isinstance(value, Quantised):
        state[f"{name}_bytes"], state[f"{name}_largest"] = value
    else:
        state[name] = value


def _read(state: dict[str, Any], name: str, *, signed: bool, like: Tensor) -> Tensor:
    if name in state:
        return state[name]
    return dequantise(Quantised(state[f"{name}_bytes"], state[f"{name}_largest"]), signed=signed, like=like)
