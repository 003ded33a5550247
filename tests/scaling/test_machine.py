"""The rate of a matrix product."""

from __future__ import annotations

import pytest
import torch

from modelworks.scaling.machine import DTYPES, measure_peak


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_the_rate_is_one_that_a_computer_has(dtype: torch.dtype) -> None:
    assert 1e8 < measure_peak(dtype, seconds=0.05) < 1e16


def test_no_time_is_no_measure() -> None:
    with pytest.raises(ValueError, match="seconds"):
        measure_peak(torch.float32, seconds=0)
