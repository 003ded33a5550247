"""Plots: points stand where their values are, and axes say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.picture import Dot, Line, Text
from modelworks.core.plot import HEIGHT, WIDTH, Axis, Plot, Series, plot

LINEAR, LOG = Axis("x"), Axis("y", logarithmic=True)


def dots(x: list[float], y: list[float], x_axis: Axis = LINEAR, y_axis: Axis = LINEAR) -> list[Dot]:
    picture = plot("t", x_axis, y_axis, [Series("", x, y, "dots")])
    return [shape for shape in picture.shapes if isinstance(shape, Dot)]


def test_places_are_in_proportion() -> None:
    left, middle, right = dots([0, 1, 4], [1, 10, 100], y_axis=LOG)
    assert (middle.x - left.x) / (right.x - left.x) == pytest.approx(1 / 4)
    assert (middle.y - left.y) / (right.y - left.y) == pytest.approx(1 / 2)
    assert right.y < left.y  # upwards


def test_ticks_stand_at_their_values() -> None:
    picture = plot("t", Axis("x", logarithmic=True), LINEAR, [Series("", [1e3, 1e9], [1, 5], "dots")])
    low, high = (shape for shape in picture.shapes if isinstance(shape, Dot))
    texts = {shape.text: shape for shape in picture.shapes if isinstance(shape, Text)}
    at = low.x + (high.x - low.x) / 2
    assert texts["1e6"].x == pytest.approx(at)
    assert texts["3"].y - 4 == pytest.approx((low.y + high.y) / 2)


def test_a_band_lies_under_what_it_surrounds() -> None:
    series = [Series("law", [1, 2], [1, 2]), Series("95%", [1, 2], [0.5, 1], "band", "band", [2, 3])]
    lines = [shape for shape in plot("t", LINEAR, LINEAR, series).shapes if isinstance(shape, Line)]
    assert [line.filled for line in lines] == [True, False, False]  # the last is the legend's
    assert len(lines[0].points) == 4


@given(
    st.lists(st.tuples(st.floats(1e-30, 1e30), st.floats(1e-30, 1e30)), min_size=1, max_size=20),
    st.booleans(),
    st.booleans(),
)
def test_every_value_is_within_the_picture(points: list[tuple[float, float]], log_x: bool, log_y: bool) -> None:
    x, y = (list(column) for column in zip(*points))
    for dot in dots(x, y, Axis("x", logarithmic=log_x), Axis("y", logarithmic=log_y)):
        assert 0 <= dot.x <= WIDTH
        assert 0 <= dot.y <= HEIGHT


def test_what_no_axis_can_show_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        dots([], [])
    with pytest.raises(ValueError, match="not finite"):
        dots([1], [float("nan")])
    with pytest.raises(ValueError, match="positive"):
        dots([1], [0], y_axis=LOG)


def test_a_smaller_plot_has_fewer_ticks_and_says_where_its_values_stand() -> None:
    def ticks(picture: Plot) -> int:
        return sum(isinstance(shape, Text) and shape.anchor == "middle" for shape in picture.shapes)

    series = [Series("a name that is too long for half of so narrow a plot", [0, 100], [1, 2])]
    wide, narrow = plot("t", LINEAR, LINEAR, series), plot("t", LINEAR, LINEAR, series, width=320, height=300)
    assert 2 <= ticks(narrow) < ticks(wide)
    start, end, low, high = narrow.ends
    assert low < 0 < 100 < high
    line = next(shape for shape in narrow.shapes if isinstance(shape, Line))
    assert line.points[1][0] == pytest.approx(start + (end - start) * (100 - low) / (high - low))
    assert any(isinstance(shape, Text) and shape.text.endswith("…") for shape in narrow.shapes)
