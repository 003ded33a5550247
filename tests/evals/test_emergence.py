"""The scores of a smooth gain: golden numbers, and which of them has a cliff."""

from __future__ import annotations

import numpy as np
import pytest

from modelworks.evals.emergence import exact_match, power_law_loss, token_edit_distance, token_probability

SIZES = np.geomspace(1e8, 1e11, 4)
P = token_probability(power_law_loss(SIZES, scale=1e9, alpha=0.3))


def test_golden_numbers() -> None:
    assert exact_match(P, 5) == pytest.approx([0.0000, 0.0067, 0.0816, 0.2848], abs=5e-5)
    assert token_edit_distance(P, 5) == pytest.approx([4.32, 3.16, 1.97, 1.11], abs=5e-3)


def test_one_has_a_cliff_and_the_other_none() -> None:
    """Each factor of ten takes off a like part of the edit distance, but multiplies exact match by 100 and by 3."""
    steps = np.diff(token_edit_distance(P, 5))
    assert steps.min() / steps.max() < 1.5
    gains = exact_match(P, 5)[1:] / exact_match(P, 5)[:-1]
    assert gains[0] > 40 * gains[2]


def test_sampling_agrees() -> None:
    right = np.random.default_rng(0).random((20_000, 5)) < 0.8
    assert right.all(1).mean() == pytest.approx(float(exact_match(0.8, 5)), abs=0.01)
    assert (~right).sum(1).mean() == pytest.approx(float(token_edit_distance(0.8, 5)), abs=0.02)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        exact_match(1.5, 5)
    with pytest.raises(ValueError, match="a token or more"):
        token_edit_distance(0.5, 0)
