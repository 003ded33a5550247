"""Pictures of laws show what they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from modelworks.core.picture import Dot, Line, Picture, Text
from modelworks.scaling.figures import draw_fit, draw_parabolas, draw_predictions
from modelworks.scaling.fit import fit_chinchilla
from modelworks.scaling.frontier import fit_isoflop
from modelworks.scaling.laws import Chinchilla
from modelworks.scaling.runs import Runs, make_runs
from modelworks.scaling.sweep import predict_largest

LAW = Chinchilla(1.8, 480.0, 0.35, 2000.0, 0.35)


@pytest.fixture(scope="module")
def runs() -> Runs:
    C_R = np.repeat(np.geomspace(1e18, 1e20, 3), 7)
    N_R = LAW.optimum(C_R)[0] * np.tile(np.geomspace(1 / 8, 8, 7), 3)
    noise_R = np.exp(np.random.default_rng(0).normal(0, 0.005, 21))
    return make_runs(N_R, C_R / (6 * N_R), LAW.loss(N_R, C_R / (6 * N_R)) * noise_R)


def count(picture: Picture, kind: type, **wanted: object) -> int:
    return sum(
        isinstance(shape, kind) and all(getattr(shape, name) == value for name, value in wanted.items())
        for shape in picture.shapes
    )


def texts(picture: Picture) -> str:
    return "\n".join(shape.text for shape in picture.shapes if isinstance(shape, Text))


def test_a_fit_has_its_runs_line_and_band(runs: Runs) -> None:
    picture = draw_fit(fit_chinchilla(runs, resamples=50), runs, "a law")
    assert count(picture, Dot, role="peer") == 21 + 1  # one is the legend's
    assert count(picture, Line, filled=True) == 1
    assert "21 rows; N counts parameters in all" in texts(picture)


def test_parabolas_have_their_minima(runs: Runs) -> None:
    found = fit_isoflop(runs, resamples=20)
    picture = draw_parabolas(found, runs, "parabolas")
    assert count(picture, Dot, hollow=True) == 3
    assert count(picture, Dot, hollow=False) == 21
    frontier = draw_fit(found.fit, runs, "sizes")
    assert "best size" in texts(frontier)


def test_a_prediction_stands_beside_what_was_reached(runs: Runs) -> None:
    predictions = predict_largest(runs, resamples=50)
    rest = runs[runs.N_R.max() > runs.N_R]
    picture = draw_predictions(fit_chinchilla(rest, resamples=50), rest, predictions, "left out")
    assert count(picture, Dot, hollow=True) == 1 + 1
    assert "reached" in texts(picture)
