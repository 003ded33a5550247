"""Numbers as a person reads them: three digits and a unit."""

from __future__ import annotations

from collections.abc import Sequence

HOUR = 3600.0


def amount(number: float) -> str:
    """Three digits and a unit: 1.35B."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= 0.9995 * scale:
            return f"{number / scale:.3g}{unit}" if number < 999.5 * scale else f"{number / scale:,.0f}{unit}"
    return f"{number:.3g}"


def between(interval: Sequence[float]) -> str:
    return f"{amount(interval[0])} to {amount(interval[1])}"


def byte_count(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB" if count < 1000 else f"{count:,.0f} TiB"


def duration(seconds: float) -> str:
    for unit, length in (("years", 365 * 24 * HOUR), ("days", 24 * HOUR), ("hours", HOUR), ("minutes", 60.0)):
        if seconds >= 2 * length:
            count = seconds / length
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.2g} {unit}"
    return f"{seconds:.2g} seconds"
