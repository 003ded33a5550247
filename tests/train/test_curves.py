"""Curves: what is smoothed, what is left out, and that a chart shows what happened."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.train.curves import HELD_OUT, charts_of, curves, draw, points, thinned
from modelworks.train.loop import Step
from modelworks.train.record import Record


def record(step, loss=2.0, *, at=None, **changes):
    made = {"metrics": {}, "weight": 8.0, "tokens": 8, "lr": 0.1, "grad_norm": 1.0, "seconds": 0.5}
    at = at or step
    return Record(
        step=Step(step=step, loss=loss, **made | changes),
        steps=100,
        time=1e9 + at,
        total_tokens=8 * at,
        total_seconds=0.5 * at,
        total_flops=800.0 * at,
        tokens_per_second=16.0,
        mfu=None,
    )


def texts(chart, run, axis="step"):
    root = ElementTree.fromstring(draw(chart, [run] if not isinstance(run, list) else run, axis))
    return root, [element.text for element in root if element.tag == "text"]


# 1 to 5, two of them lost by going back to 3; then 4 and 5 again.
WENT_BACK = [
    *(record(step) for step in (1, 2, 3, 4, 5)),
    record(6, math.nan, grad_norm=math.nan, skipped="loss is nan", rolled_back_to=3),
    *(record(step, 1.0, at=step + 3) for step in (4, 5)),
]


def test_steps_that_a_run_went_back_beyond_are_not_part_of_its_curve():
    run = curves("a", WENT_BACK, clip=0.5)
    assert run.x["step"][run.kept].tolist() == [1, 2, 3, 4, 5]
    assert run.y["loss"][run.kept].tolist() == [2, 2, 2, 1, 1]
    assert run.left.tolist() == [3, 4]
    assert (run.skipped.tolist(), run.returns.tolist()) == ([5], [5])
    loss, norm = (
        next(chart for chart in charts_of([run]) if chart.title == title) for title in ("Loss", "Gradient norm")
    )
    root, said = texts(loss, run)
    assert {"skipped", "went back", "gone back beyond"} <= set(said)
    assert len([element for element in root if element.tag == "circle"]) == 2  # the step, and in the legend
    assert "clipped at 0.5" in texts(norm, run)[1]


def test_the_mean_of_a_constant_is_that_constant_from_the_first_step_on():
    run = curves("a", [record(step) for step in range(1, 401)])
    assert run.smoothing == 10
    rows, smooth = run.smoothed("loss")
    assert len(rows) == 400
    assert smooth == pytest.approx(np.full(400, 2.0))


def test_the_mean_is_the_exponential_one():
    values = np.random.default_rng(0).normal(size=200)
    run = curves("a", [record(at + 1, value) for at, value in enumerate(values)])
    decay = 1 - 1 / run.smoothing
    weights = decay ** np.arange(200)[::-1]
    assert run.smoothed("loss")[1][-1] == pytest.approx((weights * values).sum() / weights.sum())


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=3000))
def test_thinning_keeps_order_and_extremes(values):
    column = np.array(values)
    rows = thinned(column, 20)
    assert len(rows) <= 20
    assert (np.diff(rows) > 0).all()
    assert {column[rows].min(), column[rows].max()} == {column.min(), column.max()}


def test_only_what_is_there_has_a_chart():
    run = curves("a", [record(1, metrics={"balance": 3.0}), record(2, evaluation={"accuracy": 0.5, "samples": ["x"]})])
    assert [chart.title for chart in charts_of([run])] == [
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Tokens a second",
        "balance",
        "held-out accuracy",
    ]
    assert charts_of([curves("a", [])]) == []
    assert charts_of([curves("a", [record(1, None, grad_norm=None, skipped="nothing in it counts")])]) == []


@pytest.mark.parametrize(("axis", "unit"), [("step", "steps"), ("tokens", "tokens"), ("seconds", "seconds")])
def test_each_axis_is_named_and_the_script_knows_its_ends(axis, unit):
    run = curves("a", [record(step, evaluation={"loss": 1.5} if step == 2 else {}) for step in (1, 2, 3)])
    root, said = texts(charts_of([run])[0], run, axis)
    assert unit in said
    start, end, low, high = map(float, root.get("data-ends").split())
    place = start + (end - start) * (run.x[axis][1] - low) / (high - low)
    ring = next(element for element in root if element.tag == "circle")
    assert float(ring.get("cx")) == pytest.approx(place, abs=0.1)
    assert json.loads(root.get("data-columns")) == ["loss", "loss, smoothed", HELD_OUT + "loss"]


def test_several_runs_have_their_names_and_colours_and_one_line_for_the_same_clip():
    runs = [curves(name, [record(1), record(2)], clip=1.0) for name in ("first", "second <b>")]
    loss, norm = (
        next(chart for chart in charts_of(runs) if chart.title == title) for title in ("Loss", "Gradient norm")
    )
    root, said = texts(loss, runs)
    assert {"first", "second <b>"} <= set(said)
    assert {element.get("class") for element in root if element.tag == "polyline"} == {"own-drawn", "second-drawn"}
    assert texts(norm, runs)[1].count("clipped at 1") == 1


def test_points_are_json_and_few():
    many = [record(step, math.inf if step == 7 else 2.0) for step in range(1, 5000)]
    told = points([curves("a", many), curves("b", [])])
    json.dumps(told, allow_nan=False)
    first, second = told["runs"]
    assert 300 < len(first["rows"]) <= 400
    assert first["rows"][0][:3] == [1, 8, 0.5]
    assert first["rows"][-1][0] == 4999
    assert second["rows"] == []
