"""Length bias and calibration on pairs whose truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from modelworks.core.errors import ConfigError, DataError
from modelworks.feedback.audit import Sides, calibration, length_bias, read_pairs, reward_bias, score_pairs
from modelworks.feedback.scores import of_text
from modelworks.train.rewards import length

PROMPT = ({"role": "user", "content": "?"},)


def sides(chosen, rejected):
    return Sides(PROMPT, "w " * chosen, "w " * rejected)


PAIRS = [sides(3, 1), sides(5, 2), sides(1, 4), sides(2, 2), sides(9, 1)]


def test_always_longer_is_right_where_the_longer_one_won():
    found = length_bias(PAIRS)
    assert (found.pairs, found.even, found.longer_wins) == (5, 1, 3)
    assert found.interval[0] < 0.75 < found.interval[1]
    assert (found.length_chosen, found.length_rejected) == (4.0, 2.0)


def test_a_reward_that_counts_words_is_laid_bare():
    chosen, rejected, failures = score_pairs(length(), PAIRS)
    found = reward_bias(PAIRS, chosen, rejected, failures)
    assert (found.judged, found.prefers_longer, found.uneven) == (5, 4, 4)
    assert (found.right_where_longer, found.right_where_shorter) == ((3, 3), (0, 1))
    assert found.correlation == found.partial == found.given_label == pytest.approx(1)


def test_a_reward_that_is_blind_to_length_is_cleared():
    draw = np.random.default_rng(0)
    pairs = [sides(*draw.integers(1, 50, 2)) for _ in range(400)]
    chosen, rejected = draw.normal(1, 1, 400), draw.normal(0, 1, 400)
    found = reward_bias(pairs, chosen, rejected, {})
    assert abs(found.partial) < 0.12
    assert found.prefers_longer / found.uneven == pytest.approx(0.5, abs=0.08)
    longer, shorter = found.right_where_longer, found.right_where_shorter
    assert longer[0] / longer[1] == pytest.approx(shorter[0] / shorter[1], abs=0.12)


def test_what_is_preferred_for_being_better_is_not_lengths_doing():
    """Longer answers are better here and the reward sees that alone; given the label, length adds nothing."""
    draw = np.random.default_rng(1)
    pairs = [sides(30 + draw.integers(0, 40), draw.integers(1, 40)) for _ in range(300)]
    found = reward_bias(pairs, draw.normal(3, 1, 300), draw.normal(0, 1, 300), {})
    assert found.partial > 0.5
    assert abs(found.given_label) < 0.15


def test_a_score_that_is_missing_leaves_its_pair_out():
    reward = of_text(lambda text: math.nan if len(text.split()) == 9 else len(text.split()))
    chosen, rejected, failures = score_pairs(reward, PAIRS)
    assert failures == {"no number": 1}
    assert reward_bias(PAIRS, chosen, rejected, failures).judged == 4
    assert calibration(chosen, rejected).pairs == 4
    with pytest.raises(ConfigError, match="no number for any of 10 answers: no number"):
        score_pairs(of_text(lambda text: math.nan), PAIRS)


def test_calibrated_scores_are_found_calibrated():
    """Labels drawn from the very probabilities; then the same scores three times as large."""
    draw = np.random.default_rng(0)
    gaps = draw.normal(0, 1.5, 20_000)
    wins = draw.random(20_000) < 1 / (1 + np.exp(-gaps))
    right = np.where(wins, gaps, -gaps)  # of the side that was preferred
    fair, loud = calibration(right, np.zeros(20_000)), calibration(3 * right, np.zeros(20_000))
    assert fair.ece < 0.012
    assert loud.ece > 0.1
    assert fair.accuracy == loud.accuracy
    assert loud.brier > fair.brier
    assert loud.nll > fair.nll
    assert all(one.interval[0] - 0.02 <= one.confidence <= one.interval[1] + 0.02 for one in fair.bins)


def test_calibration_by_hand():
    found = calibration([math.log(3), -math.log(3), 0.0], [0.0, 0.0, 0.0], bins=2)
    assert found.accuracy == pytest.approx(0.5)
    assert found.brier == pytest.approx((1 / 16 + 9 / 16 + 1 / 4) / 3)
    assert found.nll == pytest.approx((math.log(4 / 3) + math.log(4) + math.log(2)) / 3)
    assert [(one.pairs, round(one.confidence, 3), one.right) for one in found.bins] == [(1, 0.5, 0.5), (2, 0.75, 0.5)]
    assert found.ece == pytest.approx(2 / 3 * 0.25)
    assert calibration([2000.0], [0.0]).nll == 0
    with pytest.raises(ConfigError, match="nothing to calibrate"):
        calibration([math.nan], [0.0])


def test_pairs_from_files(tmp_path):
    rows = [("a?", "yes", "no"), ("b?", "same", "same"), ("c?", "x", " ")]
    lines = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in rows]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs, left_out = read_pairs([path])
    assert pairs == [Sides(({"role": "user", "content": "a?"},), "yes", "no")]
    assert left_out == {"both answers are the same": 1, "an empty answer": 1}
    path.write_text('{"prompt": "b?", "chosen": "x", "rejected": "x"}\n')
    with pytest.raises(ConfigError, match="no pairs to look at"):
        read_pairs([path])
    path.write_text('{"prompt": "b?"}\n')
    with pytest.raises(DataError, match="it is no pair"):
        read_pairs([path])
