"""From evidence to a probability."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.retrieval.evidence import Calibration, Evidence

CALIBRATION = Calibration(margin=0.3, cosine=4.0, coverage=1.0, context=2.0, bias=-5.0, threshold=0.5)
EVIDENCE = Evidence(margin=2.0, cosine=0.6, coverage=0.5, context=0.8)


def test_is_the_logistic_of_the_weighted_sum():
    z = 0.3 * 2.0 + 4.0 * 0.6 + 1.0 * 0.5 + 2.0 * 0.8 - 5.0
    assert CALIBRATION.probability(EVIDENCE) == pytest.approx(1 / (1 + math.exp(-z)))


@pytest.mark.parametrize("name", ["margin", "cosine", "coverage", "context"])
def test_every_kind_of_evidence_counts(name: str):
    more = replace(EVIDENCE, **{name: getattr(EVIDENCE, name) + 0.2})
    assert CALIBRATION.probability(more) > CALIBRATION.probability(EVIDENCE)


@given(st.floats(allow_nan=False), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_is_a_probability_for_any_margin(margin: float, cosine: float, coverage: float, context: float):
    bounded = replace(EVIDENCE, margin=min(margin, 1e6), cosine=cosine, coverage=coverage, context=context)
    assert 0.0 <= CALIBRATION.probability(bounded) <= 1.0
