"""First-fit decreasing: valid, and within its proven bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.data.packing import first_fit_decreasing


@given(st.lists(st.integers(0, 50), max_size=80), st.integers(50, 120))
def test_every_item_is_in_one_bin_and_no_bin_overflows(sizes: list[int], capacity: int) -> None:
    bins = first_fit_decreasing(sizes, capacity)
    assert sorted(index for filled in bins for index in filled) == list(range(len(sizes)))
    assert all(sum(sizes[index] for index in filled) <= capacity for filled in bins)
    at_least = -(-sum(sizes) // capacity)
    assert len(bins) <= max(1, 2 * at_least)  # no two bins of a first fit are both half empty


@given(st.lists(st.integers(1, 30), max_size=60))
def test_it_is_the_plain_algorithm(sizes: list[int]) -> None:
    plain: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        fitting = (filled for filled in plain if sum(sizes[at] for at in filled) + sizes[index] <= 40)
        if (target := next(fitting, None)) is None:
            plain.append(target := [])
        target.append(index)
    assert first_fit_decreasing(sizes, 40) == plain


def test_what_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="size 11 does not fit into a bin of 10"):
        first_fit_decreasing([3, 11], 10)
    assert first_fit_decreasing([], 10) == []
