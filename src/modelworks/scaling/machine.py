"""What this machine can compute: the rate of a large matrix product, which everything else is measured against."""

from __future__ import annotations

import time

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SIZE = 1024  # large enough that memory is no limit, small enough to take 40 ms on a slow core
_SECONDS = 0.5


def measure_peak(dtype: torch.dtype, *, seconds: float = _SECONDS) -> float:
    """FLOPs a second of a product of two square matrices of `dtype` on torch's threads: the best one of `seconds`."""
    left, right = (torch.randn(_SIZE, _SIZE).to(dtype) for _ in range(2))
    left @ right  # the first builds the kernel
    best = float("inf")
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        left @ right
        best = min(best, time.perf_counter() - began)
    if best == float("inf"):
        raise ValueError(f"seconds must be positive, got {seconds}")
    return 2 * _SIZE**3 / best
