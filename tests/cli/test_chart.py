"""The chart: its numbers are the report's, its bars have their lengths, and nothing lies on something else."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image, ImageFont

from modelworks.cli.chart import FORMATS, WIDTH, describe_ratio, format_number, layout, to_html, to_svg
from modelworks.core.picture import COLOURS, PLAIN, Box, Text
from modelworks.engine.bench.compare import OWN, Outcome, Task
from modelworks.engine.bench.report import Report, make_report

SVG = "{http://www.w3.org/2000/svg}"
TASK = Task(model="", threads=2)


def make(
    name: str = "SmolLM2-135M-Instruct.Q4_1.gguf", cpu: str = "AMD EPYC", *, busy: bool = False, **peers: float
) -> Report:
    """A report; each peer's factor on every figure of ours."""
    measured = dict(zip(TASK.measures, (112.25, 903.4, 139.6, 561.0, 104.0, 288.0, 511.5, 420.0)))
    outcomes = {
        side: Outcome({"version": "1.0"}, {key: [value * factor] for key, value in measured.items()}, {})
        for side, factor in ({OWN: 1.0} | peers).items()
    }
    machine = {
        "cpu": cpu,
        "cores": 2,
        "memory_mib": 1,
        "system": "x",
        "load_average": 0.1,
        "others": 0.02,
        "busy": busy,
    }
    model = {"ref": "starter", "name": name, "bytes": 1, "sha256": None}
    return make_report(TASK, outcomes, rounds=3, model=model, machine=machine, missing={"transformers": "not found"})


@pytest.fixture
def report() -> Report:
    return make(**{"llama.cpp": 0.5, "transformers": 1.25})


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_numbers_are_the_results(report: Report) -> None:
    shown = texts(to_svg(report))
    for measure in report.measures:
        assert measure.label in shown
        for side, figure in measure.figures.items():
            assert format_number(figure.median) in shown
            if side != OWN:
                assert describe_ratio(measure, side) in shown
    assert not re.search(r"nan|inf\b", " ".join(shown), re.IGNORECASE)


def test_a_busy_machine_compares_nothing() -> None:
    shown = " ".join(texts(to_svg(make(busy=True, **{"llama.cpp": 0.5}))))
    assert "The machine was busy, so nothing is compared" in shown
    assert "×" not in shown
    assert "56.1" in shown


def test_bars_have_the_lengths_of_their_values(report: Report) -> None:
    root = ElementTree.fromstring(to_svg(report))
    widths = [float(box.get("width", "")) for box in root.iter(f"{SVG}rect") if box.get("class") in ("own", "peer")]
    assert len(widths) == 3 * len(report.measures)
    for at, measure in enumerate(report.measures):
        medians = [figure.median for figure in measure.figures.values()]
        expected = [median / max(medians) for median in medians]
        got = widths[3 * at : 3 * at + 3]
        assert [width / max(got) for width in got] == pytest.approx(expected, abs=0.001)


def test_ratios_are_said_from_the_peers_side(report: Report) -> None:
    speed, memory = report.measures[0], report.measures[2]
    assert [describe_ratio(speed, peer) for peer in ("llama.cpp", "transformers")] == ["2.00× slower", "1.25× faster"]
    assert [describe_ratio(memory, peer) for peer in ("llama.cpp", "transformers")] == ["2.00× less", "1.25× more"]
    assert describe_ratio(make(peer=1.001).measures[0], "peer") == "equal"


@pytest.mark.parametrize("factors", [{}, {"llama.cpp": 0.5}, {"llama.cpp": 1e-4, "transformers": 123_456.0}])
def test_nothing_lies_on_something_else(factors: dict[str, float]) -> None:
    shapes, height = layout(make("a-model-with-a-long-name-" * 9, "A processor of a long name " * 9, **factors))
    boxes = [extent(shape) for shape in shapes if not (isinstance(shape, Box) and not shape.width)]
    for at, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert right <= WIDTH
        assert top >= 0
        assert bottom <= height
        for other in boxes[at + 1 :]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart, (boxes[at], other)


def extent(shape: Box | Text) -> tuple[float, float, float, float]:
    """Where a shape is; a letter is taken wider than usual fonts have it on average."""
    if isinstance(shape, Box):
        return shape.x, shape.y, shape.x + shape.width, shape.y + shape.height
    width = len(shape.text) * shape.size * 0.56
    left = shape.x - width if shape.anchor == "end" else shape.x
    return left, shape.y - 0.8 * shape.size, left + width, shape.y + 0.2 * shape.size


def test_names_are_texts_and_no_markup() -> None:
    report = make('<b>&\x1b[31m".gguf')
    assert texts(to_svg(report))[0] == '<b>&\\x1b[31m".gguf'
    assert "<b>" not in to_html(report)


def test_texts_are_legible_in_light_and_dark() -> None:
    for role in ("text", "muted"):
        for at in (0, 1):
            assert contrast(COLOURS[role][at], COLOURS["surface"][at]) >= 4.5
    for role in ("own", "peer"):
        assert contrast(COLOURS[role][1], COLOURS["surface"][1]) >= 3
    assert "prefers-color-scheme:dark" in to_svg(make())


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_has_every_figure(report: Report) -> None:
    page = to_html(report)
    for measure in report.measures:
        for figure in measure.figures.values():
            assert f"<td>{format_number(figure.best)} {measure.unit}" in page
    assert "left out: not found" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # it loads nothing


def test_the_picture_is_drawn(report: Report) -> None:
    png: Any = FORMATS[".png"](report)
    image = Image.open(io.BytesIO(png))
    _, height = layout(report)
    assert image.size == (2 * WIDTH, 2 * height)
    # The font that Pillow brings has few letters beyond Latin ones; an empty box stands for what it lacks.
    font = ImageFont.load_default(26)
    drawn = {letter for shape in layout(report)[0] if isinstance(shape, Text) for letter in shape.text.translate(PLAIN)}
    lacking = bytes(font.getmask("\uffff"))
    assert [letter for letter in drawn if bytes(font.getmask(letter)) == lacking] == []
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    for role in ("own", "peer", "text", "muted"):
        assert tuple(bytes.fromhex(COLOURS[role][0][1:])) in colours
