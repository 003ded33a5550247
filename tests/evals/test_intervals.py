from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.evals.intervals import bootstrap, rank_test, student_tail, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_has_its_published_values(successes, trials, low, high):
    """The last is Newcombe's example (1998, Statistics in Medicine 17, table I)."""
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.99))
def test_wilson_holds_the_rate_and_stays_within_bounds(counts, confidence):
    low, high = wilson(*counts, confidence)
    rate = counts[0] / counts[1] if counts[1] else 0.5
    assert 0 <= low <= rate + 1e-9
    assert rate - 1e-9 <= high <= 1


def test_wilson_covers_as_often_as_it_says():
    draw = np.random.default_rng(0)
    inside = [low <= 0.1 <= high for low, high in (wilson(int(draw.binomial(100, 0.1)), 100) for _ in range(2000))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_bootstrap_is_close_to_the_normal_interval_and_repeatable():
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = bootstrap(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(values) == (low, high)


def test_what_cannot_be_is_an_error():
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_the_rank_test_is_exact():
    """By counting all ways to deal the ranks out."""
    low, high = [1.0, 3.0, 3.0, 7.0], [3.0, 8.0, 9.0]
    values = [*low, *high]
    ranks = [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, 3)]
    assert rank_test(low, high) == pytest.approx(sum(one >= sum(ranks[4:]) for one in sums) / len(sums))
    assert rank_test(range(16), range(16, 32)) == pytest.approx(1 / math.comb(32, 16))
    assert rank_test([1, 1], [1, 1]) == 1
    for empty in (([], [1.0]), ([1.0], []), ([1.0], [math.nan])):
        with pytest.raises(ValueError, match="rank test"):
            rank_test(*empty)


def test_the_rank_test_is_as_rare_as_it_says():
    draw = np.random.default_rng(0)
    found = [rank_test(draw.normal(size=12), draw.normal(size=12)) for _ in range(2000)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    ("t", "freedom", "tail"),
    [
        (1.0, 1, 0.25),
        (math.sqrt(2), 2, 0.5 - math.sqrt(2) / 4),
        (2.1314495, 15, 0.025),
        (2.0860, 20, 0.025),
        (4.0728, 15, 0.0005),
        (0.0, 7, 0.5),
        (-2.1314495, 15, 0.975),
        (1.6604, 100, 0.05),
    ],
)
def test_students_tail_is_that_of_the_tables(t: float, freedom: int, tail: float) -> None:
    assert student_tail(t, freedom) == pytest.approx(tail, rel=1e-3)  # as exact as the tables
    with pytest.raises(ValueError, match="0 degrees"):
        student_tail(t, 0)
