"""Linear layers whose frozen weights stay packed: de-quantised for the product, and once more for its gradient.

Shapes: B batch and other leading dimensions, R rows of a matrix (outputs), C columns (inputs).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelworks.adapt.product import product


class PackedLinear(nn.Module):
    """x to x w' + bias with a frozen w_RC that a subclass keeps in fewer bits; no gradient is ever taken for it."""

    kind: str
    """What it is packed as, for messages."""
    dtype: torch.dtype
    """What the model's other weights are in, and what this one becomes where it is unpacked for good."""

    def __init__(self, rows: int, cols: int, bias_R: nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = rows, cols
        self.dtype = dtype
        self.bias = bias_R

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The weights, w_RC; valid until the next call for another module on this thread."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.matrix, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.kind}"


class UnpackedLinear(nn.Linear):
    """A linear layer whose weights were packed once, or are merged with ones that were: what is there to know of it."""

    was: str
    """What they were packed as."""
