"""Linear layers whose frozen weights stay packed: de-quantised for the product, and once more for its gradient.

Shapes: R rows of a matrix (outputs), C columns (inputs).
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor, nn

from modelworks.adapt.product import product
from modelworks.kernels.dequantize import BLOCKS, Floats, dequantize

_NO_SCALES = np.empty(0, np.float32)


class PackedLinear(nn.Module):
    """x to x w' + bias with a frozen w_RC in blocks of `kernels.dequantize`; no gradient is ever taken for it.

    The blocks are no part of the module's state: they are the model's, and come from where it came from.
    """

    def __init__(
        self,
        kind: str,
        blocks: Tensor,
        rows: int,
        cols: int,
        *,
        scales_G: Floats = _NO_SCALES,
        offset: float = 0.0,
        bias_R: nn.Parameter | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.out_features, self.in_features = rows, cols
        self.register_buffer("blocks", blocks, persistent=False)
        self.blocks: Tensor
        self.scales_G, self.offset = scales_G, offset
        self.bias = bias_R
        self.dtype = dtype
        """What the model's other weights are in, and what these become where they are unpacked for good."""

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The weights, w_RC; valid until the next call on this thread, of this module or of another."""
        half = dtype == torch.bfloat16
        size = self.out_features * self.in_features
        block_bytes, weights = BLOCKS.get(self.kind, (self.blocks.numel(), size))
        scratch = _scratch(torch.bfloat16 if half else torch.float32, self.blocks.numel() // block_bytes * weights)
        out = scratch.view(torch.uint16).numpy() if half else scratch.numpy()
        dequantize(self.kind, self.blocks.cpu().numpy(), out, self.scales_G, self.offset)
        return scratch[:size].view(self.out_features, self.in_features).to(self.blocks.device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.matrix, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.kind}"


class UnpackedLinear(nn.Linear):
    """A linear layer whose weights were packed once, or are merged with ones that were."""

    was: str
    """What they were packed as."""


_local = threading.local()


def _scratch(dtype: torch.dtype, size: int) -> Tensor:
    """Memory for one matrix, the same for all: so it stays in the cache for the product that follows."""
    held: dict[torch.dtype, Tensor] = _local.__dict__.setdefault("held", {})
    if dtype not in held or len(held[dtype]) < size:
        held[dtype] = torch.empty(size, dtype=dtype)
    return held[dtype][:size]


def packed_bytes(model: nn.Module) -> int:
    """Memory of all packed matrices of a model."""
    modules = (module for module in model.modules() if isinstance(module, PackedLinear))
    return sum(module.blocks.nbytes + module.scales_G.nbytes for module in modules)
