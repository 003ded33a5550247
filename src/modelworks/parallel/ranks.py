"""How many processes train together, and sums over them. One process that never asked for others is rank 0 of 1."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of all ranks' values, on each of them; every rank must ask."""
    return _reduced(value, dist.ReduceOp.SUM)


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest of all ranks' values, on each of them; every rank must ask."""
    return _reduced(value, dist.ReduceOp.MAX)


def _reduced(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value, operation)
    return value
