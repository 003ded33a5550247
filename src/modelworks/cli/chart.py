"""A report of `modelworks bench` as a picture: bars by measure, drawn as SVG, HTML or PNG from one layout.

Every measure has a scale of its own. Names, bars with their values, and ratios have columns of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING

from modelworks.core.log import escaped
from modelworks.core.picture import Box, Picture, Text, cut

if TYPE_CHECKING:
    from modelworks.engine.bench.report import Measure, Report

WIDTH = 760
_MARGIN = 32
_BARS = 144  # where bars begin
_LONGEST = 372  # the longest bar; its value comes after it
_ROW, _BAR = 22, 14  # heights
_OWN = "modelworks"


def format_number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def describe_ratio(measure: Measure, peer: str, *, busy: bool = False) -> str:
    """What a peer is beside modelworks: "1.91× slower". A busy machine slows not all alike, so that is no result."""
    if busy:
        return ""
    ratio = measure.ratios[peer]
    worse, better = ("more", "less") if measure.unit == "MiB" else ("slower", "faster")
    if abs(ratio - 1) < 0.005:
        return "equal"
    return f"{ratio:.2f}× {worse}" if ratio > 1 else f"{1 / ratio:.2f}× {better}"


def describe_conditions(report: Report) -> list[str]:
    """What the figures were measured on and with, in a few lines."""
    settings, machine = report.settings, report.machine
    rounds = f"medians of {settings['rounds']} rounds" if settings["rounds"] > 1 else "one round"
    isa = report.about.get(_OWN, {}).get("isa")
    with_isa = f" ({isa})" if isa else ""
    lines = [f"{machine['cpu']}{with_isa}, {_threads(settings['threads'], machine['cores'])}"]
    lines.append(f"a context of {settings['context']} tokens, {rounds}")
    lines.append(", ".join(_version(side, about["version"]) for side, about in report.about.items()))
    if machine["busy"]:
        lines.append("The machine was busy, so nothing is compared")
    return [escaped(line) for line in lines]


def _threads(threads: int, cores: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)} on {cores} core{'s' * (cores > 1)}"


def _version(side: str, version: str) -> str:
    return version if side in version else f"{side} {version}" if side == _OWN else f"{side} ({version})"


def layout(report: Report) -> tuple[list[Box | Text], int]:
    """The shapes of a report's chart, and its height."""
    return (shapes := list(_shapes(report))), int(max(shape.y for shape in shapes) + _MARGIN)


def _shapes(report: Report) -> Iterator[Box | Text]:
    right = WIDTH - _MARGIN
    y = 48.0
    yield Text(_MARGIN, y, cut(escaped(report.model["name"]), 20, right - _MARGIN), 20, bold=True)
    for line in describe_conditions(report):
        y += 20
        yield Text(_MARGIN, y, cut(line, 13, right - _MARGIN), role="muted")
    for measure in report.measures:
        y += 14
        yield Box(_MARGIN, y, right - _MARGIN, 1, "line")
        y += 26
        wish = "more is better" if measure.higher_is_better else "less is better"
        yield Text(_MARGIN, y, measure.label, 14, bold=True)
        yield Text(right, y, f"{measure.unit}, {wish}", 12, "muted", "end")
        y += 10
        most = max(figure.median for figure in measure.figures.values())
        for side, figure in measure.figures.items():
            own = side == _OWN
            length = max(2.0, _LONGEST * figure.median / most)
            yield Text(_MARGIN, y + 12, side, bold=own)
            yield Box(_BARS, y, length, _BAR, "own" if own else "peer", 3)
            yield Text(_BARS + length + 8, y + 12, format_number(figure.median), bold=own)
            if not own:
                yield Text(
                    right, y + 12, describe_ratio(measure, side, busy=report.machine["busy"]), 13, "muted", "end"
                )
            y += _ROW
    yield Box(_MARGIN, y, 0, 0, "line")  # the end, for the height


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(report: Report) -> Picture:
    """The chart as a picture."""
    shapes, height = layout(report)
    return Picture(_title(report), shapes, WIDTH, height)


def to_svg(report: Report) -> str:
    """A picture that follows the light or dark of who looks at it."""
    return draw(report).to_svg()


def _title(report: Report) -> str:
    return f"{report.model['name']}: {', '.join(report.about)}"


def to_html(report: Report) -> str:
    """A page of its own: the picture, what each side says of itself, and every figure in a table."""
    rows = "".join(
        f"<tr><td>{escape(measure.label)}<td>{escape(side)}<td>{format_number(figure.median)} {measure.unit}"
        f"<td>{format_number(figure.best)} {measure.unit}<td>{len(figure.samples)}</tr>"
        for measure in report.measures
        for side, figure in measure.figures.items()
    )
    sides = "".join(
        f"<dt>{escape(side)}<dd>{escape(escaped('; '.join(about.values())))}" for side, about in report.about.items()
    )
    gone = "".join(f"<dt>{escape(side)}<dd>left out: {escape(escaped(why))}" for side, why in report.missing.items())
    return draw(report).to_html(
        f"<div><table><tr><th>Measure<th>Side<th>Median<th>Best<th>Samples</tr>{rows}</table></div>\n"
        f"<dl>{sides}{gone}<dt>Date<dd>{escape(report.date)}</dl>"
    )


def to_png(report: Report) -> bytes:
    """The picture in light colours, at twice its size."""
    return draw(report).to_png()


FORMATS: dict[str, Callable[[Report], str | bytes]] = {".svg": to_svg, ".html": to_html, ".png": to_png}
