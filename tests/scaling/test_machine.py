"""The rate of a matrix product."""

from __future__ import annotations

import pytest
import torch

from modelworks.scaling.machine import DTYPES, matmul_peak


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_the_rate_is_one_that_a_computer_has(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.scaling.machine._SIDE", 256)
    assert 1e8 < matmul_peak(dtype) < 1e16
