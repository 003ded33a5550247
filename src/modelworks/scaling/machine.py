"""What this machine can compute: the rate of a large matrix product, which everything else is measured against."""

from __future__ import annotations

import time

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SIDE, _REPEATS = 2048, 4


def matmul_peak(dtype: torch.dtype, device: str | torch.device = "cpu") -> float:
    """FLOPs a second of a product of two large square matrices, the best of a few; about a second on two cores."""
    left, right = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first builds the kernel
        began = time.perf_counter()
        product = left @ right
        if product.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2.0 * _SIDE**3 / best
