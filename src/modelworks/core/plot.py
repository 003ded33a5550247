"""Plots of points, curves and bands on linear or logarithmic axes, as a `Picture`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from modelworks.core.log import escaped
from modelworks.core.picture import Box, Dot, Line, Picture, Shape, Text, cut

WIDTH, HEIGHT = 760, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 24, 88, 92  # margins, with room for title, axes and legend
_MARGIN = 24
_LEGEND = 20  # height of its rows
_WIDE, _HIGH = 83, 40  # what a tick with its number takes of an axis


@dataclass(frozen=True)
class Series:
    """`dots`, `rings`, a `line`, a `dashed` line, or a `band` from `y` to `upper`; the legend has those with a name.

    Coordinates are finite, and positive where their axis is logarithmic.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Literal["dots", "rings", "line", "dashed", "band"] = "line"
    role: str = "own"
    upper: Sequence[float] = ()
    width: float = 2.0


@dataclass(frozen=True)
class Axis:
    label: str
    logarithmic: bool = False


@dataclass(frozen=True)
class Plot(Picture):
    """A picture that knows where the values of its x axis stand."""

    ends: tuple[float, float, float, float]
    """The places of the axis' ends, and the values there (of a logarithmic axis their logarithms to base 10)."""


def plot(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    notes: Sequence[str] = (),
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Plot:
    """All series on the same axes, which reach as far as the series do; at most two lines of notes under the title.

    `height` is without the legend. Raises ValueError for coordinates that no axis can show.
    """
    horizontal = _scale(x, [value for one in series for value in one.x], _LEFT, width - _RIGHT)
    named = [one for one in series if one.name]
    rows = math.ceil(len(named) / 2)
    top = _TOP + 18 * max(len(notes) - 1, 0)
    bottom = height - _BOTTOM + _LEGEND * 2
    vertical = _scale(y, [value for one in series for value in (*one.y, *one.upper)], bottom - _LEGEND, top)
    shapes = list[Shape]()
    shapes.append(Text(_MARGIN, 36, cut(escaped(title), 18, width - 2 * _MARGIN), 18, bold=True))
    shapes += [
        Text(_MARGIN, 56 + 18 * at, cut(escaped(note), 12, width - 2 * _MARGIN), 12, "muted")
        for at, note in enumerate(notes[:2])
    ]
    for value, text in vertical.ticks(_HIGH):
        level = vertical(value)
        shapes.append(Box(_LEFT, level, width - _RIGHT - _LEFT, 1, "line"))
        shapes.append(Text(_LEFT - 8, level + 4, text, 12, "muted", "end"))
    for value, text in horizontal.ticks(_WIDE):
        shapes.append(Box(horizontal(value), top, 1, bottom - _LEGEND - top, "line"))
        shapes.append(Text(horizontal(value), bottom, text, 12, "muted", "middle"))
    for one in sorted(series, key=lambda one: one.kind != "band"):  # bands lie under all else
        shapes += _draw(one, horizontal, vertical)
    shapes.append(Text(width - _RIGHT, bottom + 20, escaped(x.label), 12, "muted", "end"))
    shapes.append(Text(_LEFT, top - 6, escaped(y.label), 12, "muted"))
    half = (width - _LEFT - _RIGHT) / 2
    for at, one in enumerate(named):
        left, line = _LEFT + (at % 2) * half, bottom + 44 + _LEGEND * (at // 2)
        shapes += _sample(one, left, line - 4)
        shapes.append(Text(left + 28, line, cut(escaped(one.name), 12, half - 32), 12))
    ends = (horizontal.start, horizontal.end, horizontal.low, horizontal.high)
    return Plot(title, shapes, width, bottom + 44 + _LEGEND * rows, ends)


class _Scale:
    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool) -> None:
        self.low, self.high, self.start, self.end, self.logarithmic = low, high, start, end, logarithmic

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self.logarithmic else value
        return self.start + (self.end - self.start) * (at - self.low) / (self.high - self.low)

    def ticks(self, room: float) -> Iterator[tuple[float, str]]:
        most = max(2.0, abs(self.end - self.start) / room)
        if self.logarithmic and self.high - self.low > 1.2:
            step = math.ceil((self.high - self.low) / most)
            for power in range(math.ceil(self.low), math.floor(self.high) + 1, step):
                yield 10.0**power, f"1e{power}"
            return
        low, high = (10**self.low, 10**self.high) if self.logarithmic else (self.low, self.high)
        rough = (high - low) / most
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        for at in range(math.ceil(low / step), math.floor(high / step) + 1):
            yield at * step, _tick(at * step)


def _tick(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}"
    return f"{value:,.6g}" if abs(value) >= 1 else f"{value:.4g}"


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> _Scale:
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"{axis.label}: there is nothing to plot, or it is not finite")
    if axis.logarithmic and min(values) <= 0:
        raise ValueError(f"{axis.label}: a logarithmic axis shows positive values alone")
    shown = [math.log10(value) for value in values] if axis.logarithmic else list(values)
    low, high = min(shown), max(shown)
    room = 0.04 * (high - low) or max(abs(high) * 0.05, 0.05)
    return _Scale(low - room, high + room, start, end, axis.logarithmic)


def _draw(one: Series, x: _Scale, y: _Scale) -> list[Shape]:
    points = tuple((x(a), y(b)) for a, b in zip(one.x, one.y, strict=True))
    if one.kind in ("dots", "rings"):
        return [Dot(a, b, one.role, hollow=one.kind == "rings") for a, b in points]
    if one.kind == "band":
        back = tuple((x(a), y(b)) for a, b in zip(one.x, one.upper, strict=True))
        return [Line(points + back[::-1], one.role, filled=True)]
    return [Line(points, one.role, one.width, dashed=one.kind == "dashed")]


def _sample(one: Series, x: float, y: float) -> list[Shape]:
    """What a series looks like, beside its name."""
    if one.kind in ("dots", "rings"):
        return [Dot(x + 10, y, one.role, hollow=one.kind == "rings")]
    if one.kind == "band":
        return [Box(x, y - 5, 20, 10, one.role, 2)]
    return [Line(tuple((x + 2.5 * at, y) for at in range(9)), one.role, one.width, dashed=one.kind == "dashed")]
