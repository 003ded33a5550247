"""Schedules as functions of the step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.train.schedule import ScheduleRecipe

NAMES = ["constant", "linear", "cosine", "wsd"]


def factors(steps, **recipe):
    return [ScheduleRecipe(**recipe).factor(step, steps) for step in range(steps)]


def test_warm_up_rises_in_a_line_to_the_peak():
    assert factors(8, name="constant", warmup=4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_linear_and_cosine_fall_from_the_peak_towards_the_floor():
    assert factors(4, name="linear", floor=0.2) == pytest.approx([1, 0.8, 0.6, 0.4])
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2 for done in (0, 0.25, 0.5, 0.75)]
    assert factors(5, name="cosine", floor=0.1, warmup=1)[1:] == pytest.approx(expected)


def test_wsd_stays_then_falls_by_the_root():
    assert factors(10, name="wsd", decay=0.4)[:6] == [1.0] * 6
    assert factors(10, name="wsd", decay=0.4)[6:] == pytest.approx([1 - math.sqrt(part / 4) for part in range(4)])


@given(
    name=st.sampled_from(NAMES),
    warmup=st.integers(0, 30),
    floor=st.floats(0, 1),
    decay=st.floats(0, 1),
    steps=st.integers(1, 40),
)
def test_it_stays_within_bounds_and_never_rises_after_the_warm_up(name, warmup, floor, decay, steps):
    recipe = ScheduleRecipe(name=name, warmup=warmup, floor=floor, decay=decay)
    found = [recipe.factor(step, steps) for step in range(steps + 5)]
    assert all(0 < factor <= 1 + 1e-12 for factor in found[:steps])
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(found[warmup:]))
    if name != "constant" and steps > warmup:
        assert found[-1] == pytest.approx(floor)


@pytest.mark.parametrize(("changes", "says"), [({"warmup": -1}, "warmup"), ({"floor": 2.0}, "floor must be from 0 to")])
def test_values_out_of_range_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        ScheduleRecipe(**changes)
