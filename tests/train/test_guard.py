"""When a step is not taken."""

from __future__ import annotations

import json
import math
import random

import pytest

from modelworks.core.errors import ConfigError
from modelworks.train.guard import Guard, GuardRecipe


def warm(guard, count=40, seed=0):
    drawn = random.Random(seed)
    for _ in range(count):
        assert guard.reason_to_skip(loss=drawn.gauss(3, 0.1), grad_norm=drawn.gauss(1, 0.2)) is None


def test_what_is_not_finite_is_named():
    guard = Guard(GuardRecipe(spike=0.0))
    assert guard.reason_to_skip(loss=math.nan, grad_norm=1.0) == "loss is nan"
    assert guard.reason_to_skip(loss=1.0, grad_norm=math.inf) == "gradient norm is inf"
    assert guard.reason_to_skip(loss=1e30, grad_norm=1e30) is None


def test_a_spike_is_named_and_forgotten():
    guard = Guard(GuardRecipe())
    warm(guard)
    assert guard.reason_to_skip(loss=9.0, grad_norm=1.0).startswith(
        "loss 9 is far above 2.999, the median of the last 40"
    )
    assert "gradient norm 50 is far above" in guard.reason_to_skip(loss=3.0, grad_norm=50.0)
    warm(guard, seed=1)  # spikes are not part of what is usual


def test_usual_noise_and_a_falling_loss_are_no_spikes():
    guard = Guard(GuardRecipe())
    drawn = random.Random(0)
    for step in range(2000):
        loss = 10 * math.exp(-step / 300) + 1
        assert (
            guard.reason_to_skip(loss=drawn.gauss(loss, 0.05 * loss), grad_norm=math.exp(drawn.gauss(0, 0.5))) is None
        )


def test_patience_is_for_skips_in_a_row():
    guard = Guard(GuardRecipe(patience=2))
    guard.reason_to_skip(loss=math.nan, grad_norm=1.0)
    guard.reason_to_skip(loss=1.0, grad_norm=1.0)
    guard.reason_to_skip(loss=math.nan, grad_norm=1.0)
    assert not guard.gives_up
    guard.reason_to_skip(loss=math.nan, grad_norm=1.0)
    assert guard.gives_up


def test_it_goes_on_from_its_state():
    one, other = Guard(GuardRecipe()), Guard(GuardRecipe())
    warm(one)
    other.restore(json.loads(json.dumps(one.state())))
    assert other.state() == one.state()
    assert other.reason_to_skip(loss=9.0, grad_norm=1.0) == one.reason_to_skip(loss=9.0, grad_norm=1.0)


@pytest.mark.parametrize("changes", [{"spike": -1.0}, {"patience": 0}, {"rollbacks": -1}])
def test_values_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match="must be"):
        GuardRecipe(**changes)
