"""The win rate at equal length, on simulated judgements whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from modelworks.core.errors import ConfigError, DataError
from modelworks.feedback.win_rate import read_wins, win_rate


def simulated(seed, *, better=0.0, love=2.0, longer=30, pairs=500, shape=np.tanh):
    """Judgements with log-odds `better` at equal length, by a judge with so much love of length."""
    draw = np.random.default_rng(seed)
    base = draw.normal(60, 15, pairs)
    own = base + draw.normal(longer, 25, pairs)
    gaps = own - base
    odds = better + love * shape(gaps / gaps.std())
    return draw.random(pairs) < 1 / (1 + np.exp(-odds)), own, base


def test_a_longer_model_that_is_no_better_wins_half_at_equal_length():
    found = [win_rate(*simulated(seed)) for seed in range(40)]
    assert min(one.rate for one in found) > 0.65, "as it is, it seems to win"
    assert np.mean([one.controlled for one in found]) == pytest.approx(0.5, abs=0.02)
    covered = sum(one.controlled_interval[0] <= 0.5 <= one.controlled_interval[1] for one in found)
    assert covered >= 34  # of 40 intervals of 95%: fewer would be a chance of one in a thousand
    assert np.mean([one.slope for one in found]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("better", [-1.0, 1.0])
def test_what_is_really_better_stays_so(better):
    found = [win_rate(*simulated(seed, better=better)).controlled for seed in range(20)]
    assert np.mean(found) == pytest.approx(1 / (1 + np.exp(-better)), abs=0.03)


def test_a_love_of_another_shape_is_still_taken_out():
    """The model of the judge is wrong here (a step, not a tanh)."""
    found = [win_rate(*simulated(seed, shape=np.sign, longer=15)) for seed in range(20)]
    assert np.mean([one.rate for one in found]) > 0.6
    assert np.mean([one.controlled for one in found]) == pytest.approx(0.5, abs=0.05)


def test_edges_have_finite_numbers():
    always = win_rate([1] * 50, range(50), [10] * 50)
    assert 0.9 < always.controlled <= 1
    assert always.interval == (1.0, 1.0)
    same = win_rate([1, 0, 0.5, 0.5], [5] * 4, [5] * 4)
    assert (same.rate, same.controlled, same.slope) == (0.5, pytest.approx(0.5), pytest.approx(0))
    one = win_rate([1], [3], [2])
    assert one.comparisons == 1
    assert 0.5 < one.controlled < 1
    with pytest.raises(ConfigError, match="no comparisons"):
        win_rate([], [], [])
    for bad in (([2], [1], [1]), ([1], [1, 2], [1]), ([1], [np.nan], [1])):
        with pytest.raises(ValueError):
            win_rate(*bad)


def test_rows_of_wins(tmp_path):
    path = tmp_path / "wins.jsonl"
    path.write_text('{"win": 1, "answer": "a b", "base": "c"}\n{"win": 0.5, "length": 3, "base_length": 4}\n')
    assert read_wins(path) == ([1.0, 0.5], [2, 3], [1, 4])
    for row, said in (("{}", "expected win"), ('{"win": 7, "length": 1, "base_length": 1}', "win is 7.0")):
        path.write_text(row + "\n")
        with pytest.raises(DataError, match=said):
            read_wins(path)
