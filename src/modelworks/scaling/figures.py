"""Pictures of laws: runs with the lowest loss of each budget, IsoFLOP parabolas, and a prediction beside what came."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from modelworks.core.picture import Picture
from modelworks.core.plot import Axis, Series, plot
from modelworks.scaling.fit import Fit, Interval
from modelworks.scaling.frontier import IsoFLOP
from modelworks.scaling.laws import Chinchilla, Frontier
from modelworks.scaling.minimise import Array
from modelworks.scaling.runs import Runs
from modelworks.scaling.sweep import Prediction

_BEYOND = 10  # times the largest run, which a curve is drawn to
_COMPUTE = Axis("training FLOPs", logarithmic=True)
_LOSS = Axis("loss, nats a token", logarithmic=True)
_SIZE = Axis("parameters", logarithmic=True)
_ROLES = ("own", "second", "third", "fourth")


def draw_fit(fit: Fit[Any], runs: Runs, title: str) -> Picture:
    """By compute, the best size of a frontier, or of other laws the runs and the lowest loss that they predict."""
    C_G = np.geomspace(fit.reach.low, fit.reach.high * _BEYOND, 80)
    notes = [_rows(fit.rows, fit.counting)]
    if isinstance(fit.law, Frontier):
        bounds = [fit.interval(partial(_best_size, C=C)) for C in C_G]
        return plot(title, _COMPUTE, _SIZE, _banded(C_G, _best_size(fit.law, C_G), bounds, "best size"), notes=notes)
    notes.append(f"the line is drawn {_BEYOND} times beyond the largest run")
    bounds = [fit.interval(partial(_lowest_loss, C=C)) for C in C_G]
    series = _banded(C_G, _lowest_loss(fit.law, C_G), bounds, "lowest loss by the law")
    series.append(Series("runs", runs.C_R.tolist(), runs.loss_R.tolist(), "dots", "peer"))
    return plot(title, _COMPUTE, _LOSS, series, notes=notes)


def draw_parabolas(found: IsoFLOP, runs: Runs, title: str) -> Picture:
    """Loss by size for each budget, with its parabola and minimum."""
    series = []
    for at, parabola in enumerate(found.parabolas):
        role = _ROLES[at % len(_ROLES)]
        N_R = runs.N_R[parabola.rows]
        N_G = np.geomspace(N_R.min(), N_R.max(), 60)
        curve_G = parabola.lift + parabola.bend * np.log(N_G / parabola.N_opt) ** 2
        name = f"{parabola.budget:.2g} FLOPs: {parabola.N_opt:.3g} parameters"
        series.append(Series(name, N_G.tolist(), curve_G.tolist(), "line", role))
        series.append(Series("", N_R.tolist(), runs.loss_R[parabola.rows].tolist(), "dots", role))
        series.append(Series("", [parabola.N_opt], [parabola.lift], "rings", role))
    return plot(title, _SIZE, _LOSS, series, notes=[_rows(found.fit.rows, found.fit.counting)])


def draw_predictions(fit: Fit[Chinchilla], runs: Runs, predictions: Sequence[Prediction], title: str) -> Picture:
    """By size, runs that were fitted and those left out, with the interval that was predicted for them."""
    series = []
    for at, predicted in enumerate(predictions):
        low, high = predicted.interval
        bar = Series("95% interval" if at == 0 else "", [predicted.N] * 2, [low, high], "line", "second")
        series.append(bar)
        series.append(Series("predicted" if at == 0 else "", [predicted.N], [predicted.predicted], "rings", "second"))
        series.append(Series("reached" if at == 0 else "", [predicted.N], [predicted.reached], "dots", "own"))
    held = max(predicted.N for predicted in predictions)
    N_G = np.geomspace(runs.N_R.min(), held, 60)
    for C in sorted({predicted.N * predicted.D * 6 for predicted in predictions}):
        curve_G = np.asarray(fit.law.loss(N_G, C / (6 * N_G)))
        series.append(Series(f"the law at {C:.2g} FLOPs", N_G.tolist(), curve_G.tolist(), "dashed", "third"))
    series.append(Series("runs that were fitted", runs.N_R.tolist(), runs.loss_R.tolist(), "dots", "peer"))
    return plot(title, _SIZE, _LOSS, series, notes=[_rows(fit.rows, fit.counting)])


def _rows(rows: int, counting: str) -> str:
    return f"{rows} rows; N counts parameters {'in all' if counting == 'total' else counting}"


def _banded(x_G: Array, y_G: Array, bounds: Sequence[Interval], name: str) -> list[Series]:
    low, high = [bound.low for bound in bounds], [bound.high for bound in bounds]
    return [
        Series("95% interval", x_G.tolist(), low, "band", "band", high),
        Series(name, x_G.tolist(), y_G.tolist()),
    ]


def _best_size(law: Any, C: Any) -> Any:
    return law.optimum(C)[0]


def _lowest_loss(law: Any, C: Any) -> Any:
    return law.loss(*law.optimum(C))
