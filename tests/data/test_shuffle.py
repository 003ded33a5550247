"""The computed permutation: that it is one, that it looks random, and that it never changes."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modelworks.data.shuffle import permuted, uniform


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 5))
def test_it_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    found = permuted(np.arange(size), size, seed, epoch)
    assert sorted(found.tolist()) == list(range(size))


@given(st.integers(1, 10**12), st.integers(0, 100), st.data())
def test_any_part_is_that_part_of_the_whole(size: int, seed: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    together = permuted(places, size, seed)
    assert together.tolist() == [int(permuted(places[at : at + 1], size, seed)[0]) for at in range(len(places))]
    assert len(set(together.tolist())) == len(places)
    assert 0 <= together.min() <= together.max() < size


def test_all_orders_of_few_are_equally_likely() -> None:
    counts = Counter(tuple(permuted(np.arange(4), 4, seed).tolist()) for seed in range(4800))
    assert counts.keys() == set(permutations(range(4)))
    chi_squared = sum((n - 200) ** 2 / 200 for n in counts.values())
    assert chi_squared < 49.7  # 23 degrees of freedom, p = .001


def test_neighbours_are_torn_apart() -> None:
    order = permuted(np.arange(100_000), 100_000, 1, 0)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.015  # 4.7 standard deviations of no correlation
    assert abs(np.corrcoef(order, permuted(np.arange(100_000), 100_000, 1, 1))[0, 1]) < 0.015


def test_the_order_of_a_seed_never_changes() -> None:
    """A run that was stopped years ago finds its place; these numbers are a promise."""
    assert permuted(np.arange(10), 10, 42, 0).tolist() == [4, 3, 5, 8, 0, 9, 7, 6, 1, 2]
    assert permuted(np.arange(3), 5000, 42, 0).tolist() == [4146, 2210, 4187]
    assert uniform(42, 7) == 0.08603176010658542


def test_uniform_is_uniform() -> None:
    drawn = np.array([uniform(3, at) for at in range(4000)])
    assert 0 <= drawn.min() < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.02
    assert abs(drawn.var() - 1 / 12) < 0.005
