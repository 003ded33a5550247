from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelworks.agents.limits import Limits, Meter
from modelworks.core.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "limits.steps is 0"),
        ({"repeats": 1}, "limits.repeats is 1"),
        ({"calls_per_tool": {"a": -1}}, "limits.calls_per_tool.a"),
        ({"cost": 1.0}, "not what tokens cost"),
    ],
)
def test_numbers_that_cannot_work_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Limits(**fields)


def test_calls_that_run_together_never_go_beyond_a_cap() -> None:
    """pydantic-ai PR 2978: 8 parallel calls under a cap of 6."""
    meter = Meter(Limits(calls=6))
    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(meter.admit, ["a"] * 8))
    assert sum(each is None for each in refused) == 6
    assert meter.usage.tool_calls == 6


def test_a_tool_has_a_cap_of_its_own() -> None:
    meter = Meter(Limits(calls_per_tool={"a": 1}))
    assert meter.admit("a") is None
    assert "a may be called 1 times" in (meter.admit("a") or "")
    assert meter.admit("b") is None


def test_what_a_part_uses_counts_for_the_whole() -> None:
    parent = Meter(Limits(tokens=100, calls=2))
    child = Meter(Limits(tokens=1000, calls=10), parent)
    child.replied(80, 30)
    assert parent.usage.tokens == 110
    assert parent.usage.model_calls == 0
    stop = child.stop()
    assert stop is not None
    assert stop.why == "tokens"
    assert [child.admit("a") is None for _ in range(3)] == [True, True, False]
    assert child.usage.tool_calls == 2


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(steps=1), "steps"),
        (Limits(tokens=10), "tokens"),
        (Limits(cost=1e-5, completion_price=10.0), "cost"),
        (Limits(seconds=1e-9), "seconds"),
        (Limits(), None),
    ],
)
def test_each_limit_says_why_it_stops(limits: Limits, why: str | None) -> None:
    meter = Meter(limits)
    meter.replied(8, 4)
    stop = meter.stop()
    assert (stop.why if stop else None) == why
    if stop and why:
        assert f"limits.{why}" in stop.text


def test_the_time_of_a_reply_counts_though_nothing_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one reply was told to have taken 0.0 s."""
    now = iter((10.0, 14.5))
    monkeypatch.setattr("modelworks.agents.limits.time.monotonic", lambda: next(now))
    meter = Meter(Limits())
    meter.replied(5, 3)
    assert meter.usage.seconds == 4.5
