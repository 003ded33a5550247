"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from modelworks.core.units import amount, between, byte_count, duration


@pytest.mark.parametrize(
    ("number", "said"),
    [(12, "12"), (999.9, "1K"), (134_515_008, "135M"), (999_600_000, "1B"), (1.4e12, "1.4T"), (17e15, "17,000T")],
)
def test_amounts(number: float, said: str) -> None:
    assert amount(number) == said


def test_intervals() -> None:
    assert between((2.41e9, 3.3e9)) == "2.41B to 3.3B"


@pytest.mark.parametrize(
    ("count", "said"), [(12, "12 B"), (2048, "2 KiB"), (513 << 20, "513 MiB"), (1e15, "909 TiB"), (1e16, "9,095 TiB")]
)
def test_bytes(count: float, said: str) -> None:
    assert byte_count(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5, "5 seconds"), (150, "2.5 minutes"), (9000, "2.5 hours"), (90 * 3600, "3.8 days"), (1e11, "3,171 years")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
