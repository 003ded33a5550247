from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.engine.cache import Cache


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), capacity=st.integers(1, 20))
def test_it_returns_what_concatenation_would(sizes: list[int], capacity: int) -> None:
    cache = Cache(2, capacity)
    generator = torch.Generator().manual_seed(0)
    held = [[torch.empty(2, 3, 0, 4)] * 2 for _ in range(2)]
    for T in sizes:
        before = cache.length
        for layer in range(2):
            assert cache.length == before  # a pass is not over before its last layer
            k, v = torch.randn(2, 2, 3, T, 4, generator=generator)
            held[layer] = [torch.cat([held[layer][0], k], 2), torch.cat([held[layer][1], v], 2)]
            keys, values = cache.update(layer, k, v)
            assert torch.equal(keys, held[layer][0])
            assert torch.equal(values, held[layer][1])
        assert cache.length == before + T


def test_it_grows_seldom() -> None:
    cache = Cache(1, 4)
    new = torch.zeros(1, 1, 1, 2)
    buffers = {cache.update(0, new, new)[0].data_ptr() for _ in range(1000)}
    assert len(buffers) <= 9  # 4, 8, ..., 1024
    assert cache.nbytes == 2 * 1024 * 2 * 4


def test_no_growth_within_capacity() -> None:
    cache = Cache(1, 100)
    new = torch.zeros(1, 1, 1, 2)
    assert len({cache.update(0, new, new)[0].data_ptr() for _ in range(100)}) == 1


def test_rows_leave() -> None:
    cache = Cache(2, 4)
    k = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 1)
    for layer in range(2):
        cache.update(layer, k, k + 10)
    cache.keep_rows([2, 0])
    new = torch.full((2, 1, 1, 1), 5.0)
    for layer in range(2):
        keys, values = cache.update(layer, new, new)
        assert keys[:, 0, :, 0].tolist() == [[2, 2, 5], [0, 0, 5]]
        assert values[:, 0, :, 0].tolist() == [[12, 12, 5], [10, 10, 5]]


def test_tokens_are_undone() -> None:
    cache = Cache(1, 2)
    cache.update(0, torch.ones(1, 1, 5, 1), torch.ones(1, 1, 5, 1))
    cache.truncate(2)
    keys, _ = cache.update(0, torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    assert keys.flatten().tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="3 tokens to 4"):
        cache.truncate(4)


def test_dtype_and_device_are_those_of_the_keys() -> None:
    keys, values = Cache(1).update(0, torch.ones(1, 1, 2, 1, dtype=torch.bfloat16), torch.ones(1, 1, 2, 3))
    assert (keys.dtype, values.dtype) == (torch.bfloat16, torch.float32)
    assert values.shape == (1, 1, 2, 3)
