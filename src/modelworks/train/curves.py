"""Curves of training runs: columns of their records, and charts of one run or of several over each other.

Shapes: R records; S of them are drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from modelworks.core.plot import Axis, Plot, Series, plot
from modelworks.train.record import Record

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

AXES = ("step", "tokens", "seconds")
ROLES = ("own", "second", "third", "fourth", "fifth", "sixth")
"""Of runs in one chart: there are no more that an eye can tell apart."""
HELD_OUT = "held-out "
"""What stands before the name of an evaluation's number, whose loss is another than the step's."""

_WIDTH, _HEIGHT = 440, 370
_POINTS = 400  # of a curve, at most: about as many as a chart has pixels
_SMOOTHED = 40  # times as long as what smoothing averages over is a run
_MARKED = ("loss", "gradient norm")  # columns whose charts say which steps were not taken or not kept
_DECADES = 1.5  # beyond which values have a logarithmic axis
_UNITS = {
    "step": ((1.0, "steps"),),
    "tokens": ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens"), (1.0, "tokens")),
    "seconds": ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")),
}


@dataclass(frozen=True)
class Curves:
    """A run's records as columns; NaN where a record has no such number."""

    name: str
    x: dict[str, Array]
    """By axis."""
    y: dict[str, Array]
    """Of a step."""
    evaluated: dict[str, Array]
    """Of an evaluation."""
    kept: Rows
    """Steps that were taken and not gone back beyond."""
    left: Rows
    """Steps that were taken, and that the run then went back beyond."""
    skipped: Rows
    returns: Rows
    """Where the run went back."""
    clip: float
    """The longest gradient; 0 for any."""

    @property
    def smoothing(self) -> int:
        """How many steps a smoothed value averages over, about."""
        return max(1, round(len(self.kept) / _SMOOTHED))

    def smoothed(self, name: str) -> tuple[Rows, Array]:
        """The exponential mean of a column over the steps that are kept, and where it is known."""
        rows = self.kept[np.isfinite(self.y[name][self.kept])]
        return rows, _smooth(self.y[name][rows], self.smoothing)


def curves(name: str, records: Sequence[Record], *, clip: float = 0.0) -> Curves:
    """The columns of a run's records."""
    steps = [record.step for record in records]
    metrics = dict.fromkeys(key for step in steps for key in step.metrics)
    evaluations = dict.fromkeys(
        key for step in steps for key, value in step.evaluation.items() if isinstance(value, int | float)
    )
    y: dict[str, list[float | None]] = {
        "loss": [step.loss for step in steps],
        "learning rate": [step.lr for step in steps],
        "gradient norm": [step.grad_norm for step in steps],
        "tokens per second": [record.tokens_per_second for record in records],
        "MFU": [record.mfu for record in records],
    }
    y |= {key: [step.metrics.get(key) for step in steps] for key in metrics if key not in y}
    kept, left = _kept(records)
    return Curves(
        name=name,
        x={
            "step": _column([step.step for step in steps]),
            "tokens": _column([record.total_tokens for record in records]),
            "seconds": _column([record.total_seconds for record in records]),
        },
        y={key: _column(values) for key, values in y.items()},
        evaluated={key: _column([_numeric(step.evaluation.get(key)) for step in steps]) for key in evaluations},
        kept=kept,
        left=left,
        skipped=np.array([at for at, step in enumerate(steps) if step.skipped], dtype=np.intp),
        returns=np.array([at for at, step in enumerate(steps) if step.rolled_back_to is not None], dtype=np.intp),
        clip=clip,
    )


def _kept(records: Sequence[Record]) -> tuple[Rows, Rows]:
    kept: list[int] = []
    left: list[int] = []
    for at, record in enumerate(records):
        if (back := record.step.rolled_back_to) is not None:
            while kept and records[kept[-1]].step.step > back:
                left.append(kept.pop())
        elif record.step.skipped is None:
            kept.append(at)
    return np.array(kept, dtype=np.intp), np.array(sorted(left), dtype=np.intp)


def _column(values: Sequence[float | None]) -> Array:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _numeric(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _smooth(y_R: Array, width: int) -> Array:
    """An exponential mean whose first values lean on no zero (the correction of Kingma and Ba 2015, section 3)."""
    decay, mean = 1 - 1 / width, 0.0
    out_R = np.empty_like(y_R)
    for at, value in enumerate(y_R):
        mean = decay * mean + (1 - decay) * value
        out_R[at] = mean / (1 - decay ** (at + 1))
    return out_R


def thinned(y_R: Array, most: int = _POINTS) -> Rows:
    """At most so many rows, in order: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(y_R) <= most:
        return np.arange(len(y_R))
    edges = np.linspace(0, len(y_R), most // 2 + 1).astype(int)
    found = {start + pick(y_R[start:end]) for start, end in pairwise(edges) for pick in (np.argmin, np.argmax)}
    return np.array(sorted(found), dtype=np.intp)


def _spread(count: int, most: int = _POINTS) -> Rows:
    """At most so many rows, the first and the last among them, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


# --- charts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chart:
    """What a chart shows: columns by name, of which the first may be smoothed."""

    title: str
    label: str
    column: str
    evaluated: str | None = None
    smooth: bool = True
    wide: bool = False
    """Values may need a logarithmic axis."""
    scale: float = 1.0


def charts_of(runs: Sequence[Curves]) -> list[Chart]:
    """The charts that these runs have something for."""
    charts = [
        Chart("Loss", "", "loss", "loss", wide=True),
        Chart("Learning rate", "", "learning rate", smooth=False),
        Chart("Gradient norm", "before clipping", "gradient norm", wide=True),
        Chart("Tokens a second", "", "tokens per second"),
        Chart("MFU", "% of the measured peak", "MFU", scale=100.0),
    ]
    named = {chart.column for chart in charts}
    metrics = dict.fromkeys(key for run in runs for key in run.y if key not in named)
    charts += [Chart(key, "of the objective, each step", key) for key in metrics]
    scores = dict.fromkeys(key for run in runs for key in run.evaluated if key != "loss")
    charts += [Chart(HELD_OUT + key, "of evaluations", "", key, smooth=False) for key in scores]
    return [chart for chart in charts if any(_has(chart, run) for run in runs)]


def _has(chart: Chart, run: Curves) -> bool:
    column, evaluated = run.y.get(chart.column), run.evaluated.get(chart.evaluated or "")
    return (column is not None and bool(np.isfinite(column[run.kept]).any())) or (
        evaluated is not None and bool(np.isfinite(evaluated).any())
    )


def draw(chart: Chart, runs: Sequence[Curves], axis: str) -> str:
    """The chart as an element of a page, of values against `axis`; attributes tell a script which columns it shows."""
    unit, label = _unit(axis, max(run.x[axis][-1] for run in runs if len(run.x[axis])))
    series: list[Series] = []
    for run, role in zip(runs, ROLES):
        series += _series(chart, run, run.x[axis] / unit, role if len(runs) > 1 else None)
    y = [value for one in series for value in one.y]
    low, high = min(y), max(y)
    logarithmic = chart.wide and low > 0 and math.log10(high / low) > _DECADES
    if len(runs) == 1 and chart.column in _MARKED:
        series += _marks(runs[0], runs[0].x[axis] / unit, low, high)
    if chart.column == "gradient norm":
        series += _clips(runs, series)
    picture = plot(chart.title, Axis(label), Axis(chart.label, logarithmic), series, width=_WIDTH, height=_HEIGHT)
    return picture.to_element(_attributes(chart, axis, unit, picture))


def _unit(axis: str, largest: float) -> tuple[float, str]:
    return next((unit for unit in _UNITS[axis] if largest >= 2 * unit[0]), _UNITS[axis][-1])


def _series(chart: Chart, run: Curves, x_R: Array, role: str | None) -> Iterator[Series]:
    """`role` is the run's among several, which have smoothed curves alone; None where it is the only one."""
    if chart.column in run.y:
        y_R = run.y[chart.column] * chart.scale
        rows, smooth_S = run.smoothed(chart.column)
        averaged = chart.smooth and run.smoothing > 1
        left = run.left[np.isfinite(y_R[run.left])]
        if role is None and len(left) and chart.column in _MARKED:
            yield _line("gone back beyond", x_R, y_R, left, "fifth", 1.0)
        if len(rows) and averaged:
            if role is None:
                yield _line("each step", x_R, y_R, rows, "peer", 1.0)
            drawn = _spread(len(rows))
            name = f"mean of {run.smoothing} steps" if role is None else run.name
            smooth = (smooth_S[drawn] * chart.scale).tolist()
            yield Series(name, x_R[rows[drawn]].tolist(), smooth, "line", role or "own")
        elif len(rows):
            yield _line("" if role is None else run.name, x_R, y_R, rows, role or "own", 2.0)
    if chart.evaluated in run.evaluated:
        y_R = run.evaluated[chart.evaluated]
        rows = np.flatnonzero(np.isfinite(y_R))
        if len(rows):
            rows = rows[_spread(len(rows))]
            if not chart.column:
                yield _line("", x_R, y_R, rows, role or "second", 1.0)
            name = "held out" if role is None else "" if chart.column else run.name
            yield Series(name, x_R[rows].tolist(), y_R[rows].tolist(), "rings", role or "second")


def _line(name: str, x_R: Array, y_R: Array, rows: Rows, role: str, width: float) -> Series:
    rows = rows[thinned(y_R[rows])]
    return Series(name, x_R[rows].tolist(), y_R[rows].tolist(), "line", role, width=width)


def _marks(run: Curves, x_R: Array, low: float, high: float) -> Iterator[Series]:
    """Steps that were skipped, at the upper edge, and where the run went back."""
    if len(run.skipped):
        drawn = run.skipped[_spread(len(run.skipped))]
        yield Series("skipped", x_R[drawn].tolist(), [high] * len(drawn), "dots", "fifth")
    for at, row in enumerate(run.returns):
        name = "went back" if at == 0 else ""
        yield Series(name, [x_R[row]] * 2, [low, high], "dashed", "fifth", width=1.0)


def _clips(runs: Sequence[Curves], series: Sequence[Series]) -> Iterator[Series]:
    """Where gradients are clipped: one line where that is the same for all runs."""
    x = [value for one in series for value in one.x]
    clips = {run.clip: role for run, role in reversed(list(zip(runs, ROLES))) if run.clip}
    for clip, role in clips.items():
        kind = role if len(clips) > 1 else "second"
        yield Series(f"clipped at {clip:g}", [min(x), max(x)], [clip] * 2, "dashed", kind, width=1.5)


# --- what a script shows of them --------------------------------------------------------------------------------------


def _attributes(chart: Chart, axis: str, unit: float, picture: Plot) -> dict[str, str]:
    start, end, low, high = picture.ends
    columns = [chart.column, f"{chart.column}, smoothed"] if chart.smooth else [chart.column]
    columns += [HELD_OUT + chart.evaluated] if chart.evaluated else []
    return {
        "data-axis": axis,
        "data-ends": f"{start:g} {end:g} {low * unit:.9g} {high * unit:.9g}",
        "data-columns": json.dumps([column for column in columns if column]),
    }


def points(runs: Sequence[Curves]) -> dict[str, object]:
    """At most a few hundred rows of each run, as JSON has them: the axes, and every column of every chart."""
    names = dict.fromkeys(AXES)
    for chart in charts_of(runs):
        if chart.column:
            names |= dict.fromkeys([chart.column, *([f"{chart.column}, smoothed"] if chart.smooth else [])])
        if chart.evaluated:
            names[HELD_OUT + chart.evaluated] = None
    return {"columns": list(names), "runs": [{"name": run.name, "rows": _rows(run, list(names))} for run in runs]}


def _rows(run: Curves, names: Sequence[str]) -> list[list[float | None]]:
    total = len(run.x["step"])
    columns: dict[str, Array] = dict(run.x) | run.y
    for name in names:
        if name.endswith(", smoothed") and (of := name.removesuffix(", smoothed")) in run.y:
            columns[name] = np.full(total, np.nan)
            rows, smooth_S = run.smoothed(of)
            columns[name][rows] = smooth_S
    columns |= {HELD_OUT + name: values for name, values in run.evaluated.items()}
    evaluated = [np.flatnonzero(np.isfinite(values)) for values in run.evaluated.values()]
    kept = run.kept[_spread(len(run.kept))] if len(run.kept) else run.kept
    shown = np.unique(np.concatenate([kept, *(rows[_spread(len(rows))] for rows in evaluated if len(rows))]))
    empty = np.full(total, np.nan)
    return [[_short(columns.get(name, empty)[row]) for name in names] for row in shown.astype(int)]


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None
