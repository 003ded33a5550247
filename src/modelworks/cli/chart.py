"""A report of `modelworks bench` as a picture: bars by measure, drawn as SVG, HTML or PNG from one layout.

Every measure has a scale of its own. Names, bars with their values, and ratios have columns of their own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from modelworks.core.log import escaped

if TYPE_CHECKING:
    from modelworks.engine.bench.report import Measure, Report

WIDTH = 760
_MARGIN = 32
_BARS = 144  # where bars begin
_LONGEST = 372  # the longest bar; its value comes after it
_ROW, _BAR = 22, 14  # heights
_LETTER = 0.56  # of a font's size, a letter's width on average; for cutting what would not fit
_PNG_SCALE = 2
_OWN = "modelworks"
PLAIN = str.maketrans({"×": "x", "…": "..."})  # what the font of a PNG lacks

# By role: in light, in dark. Texts have at least 4.5 times the background's contrast (WCAG 2.2, 1.4.3).
COLOURS = {
    "surface": ("#ffffff", "#10161f"),
    "text": ("#14202e", "#e8eef6"),
    "muted": ("#56657a", "#9aa8ba"),
    "line": ("#e3e8ef", "#263040"),
    "own": ("#1d6fe0", "#5aa2ff"),
    "peer": ("#9aa7b8", "#64748b"),
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Box:
    """A rectangle with round corners."""

    x: float
    y: float
    width: float
    height: float
    role: str
    radius: float = 0.0


@dataclass(frozen=True)
class Text:
    """One line; (x, y) is on its baseline, at its start or, for `end`, at its end."""

    x: float
    y: float
    text: str
    size: float = 13
    role: str = "text"
    anchor: Literal["start", "end"] = "start"
    bold: bool = False


Shape = Box | Text


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


def layout(report: Report) -> tuple[list[Shape], int]:
    """The shapes of a report's chart, and its height."""
    return (shapes := list(_shapes(report))), int(max(shape.y for shape in shapes) + _MARGIN)


def _shapes(report: Report) -> Iterator[Shape]:
    right = WIDTH - _MARGIN
    y = 48.0
    yield Text(_MARGIN, y, _cut(escaped(report.model["name"]), 20, right - _MARGIN), 20, bold=True)
    for line in describe_conditions(report):
        y += 20
        yield Text(_MARGIN, y, _cut(line, 13, right - _MARGIN), role="muted")
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


def _cut(text: str, size: float, width: float) -> str:
    most = int(width / (size * _LETTER))
    return text if len(text) <= most else text[: most - 1] + "…"


# --- drawing ----------------------------------------------------------------------------------------------------------


def to_svg(report: Report) -> str:
    """A picture that follows the light or dark of who looks at it."""
    shapes, height = layout(report)
    rules = "".join(f".{role}{{fill:{light}}}" for role, (light, _) in COLOURS.items())
    dark = "".join(f".{role}{{fill:{dark}}}" for role, (_, dark) in COLOURS.items())
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" font-family="{_FONT}">',
            f"<title>{escape(_title(report))}</title>",
            f"<style>{rules}.bold{{font-weight:600}}@media (prefers-color-scheme:dark){{{dark}}}</style>",
            f'<rect class="surface" width="{WIDTH}" height="{height}" rx="10"/>',
            *(_svg_box(shape) if isinstance(shape, Box) else _svg_text(shape) for shape in shapes),
            "</svg>\n",
        ]
    )


def _title(report: Report) -> str:
    return escaped(f"{report.model['name']}: {', '.join(report.about)}")


def _svg_box(box: Box) -> str:
    return (
        f'<rect class="{box.role}" x="{box.x:g}" y="{box.y:g}" width="{box.width:.1f}" height="{box.height:g}" '
        f'rx="{box.radius:g}"/>'
    )


def _svg_text(text: Text) -> str:
    anchor = ' text-anchor="end"' if text.anchor == "end" else ""
    bold = " bold" if text.bold else ""
    return (
        f'<text class="{text.role}{bold}" x="{text.x:.1f}" y="{text.y:g}" font-size="{text.size:g}"{anchor}>'
        f"{escape(text.text)}</text>"
    )


def to_html(report: Report) -> str:
    """A page of its own: the picture, what each side says of itself, and every figure in a table."""
    light, dark = ({role: pair[at] for role, pair in COLOURS.items()} for at in (0, 1))
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
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(_title(report))}</title>\n<style>\n'
        f":root{{--surface:{light['surface']};--text:{light['text']};--muted:{light['muted']};--line:{light['line']}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{--surface:{dark['surface']};--text:{dark['text']};"
        f"--muted:{dark['muted']};--line:{dark['line']}}}}}\n"
        f"body{{margin:0 auto;max-width:{WIDTH}px;padding:1rem;background:var(--surface);color:var(--text);"
        f"font:14px/1.5 {_FONT}}}\n"
        "svg{display:block;width:100%;height:auto}div{overflow-x:auto}\n"
        "table{border-collapse:collapse;width:100%;margin:1rem 0}"
        "td,th{padding:.35rem .6rem;text-align:left;border-bottom:1px solid var(--line)}\n"
        "dt{font-weight:600}dd{margin:0 0 .6rem;color:var(--muted);overflow-wrap:anywhere}\n</style>\n"
        f"{to_svg(report)}<div><table><tr><th>Measure<th>Side<th>Median<th>Best<th>Samples</tr>{rows}</table></div>\n"
        f"<dl>{sides}{gone}<dt>Date<dd>{escape(report.date)}</dl></html>\n"
    )


def to_png(report: Report) -> bytes:
    """The picture in light colours, at twice its size, with the font that Pillow brings."""
    from PIL import Image, ImageDraw, ImageFont

    shapes, height = layout(report)
    image = Image.new("RGB", (WIDTH * _PNG_SCALE, height * _PNG_SCALE), COLOURS["surface"][0])
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        x, y, fill = shape.x * _PNG_SCALE, shape.y * _PNG_SCALE, COLOURS[shape.role][0]
        if isinstance(shape, Text):
            font = ImageFont.load_default(shape.size * _PNG_SCALE)
            anchor, bolder = "rs" if shape.anchor == "end" else "ls", 0.5 if shape.bold else 0
            draw.text((x, y), shape.text.translate(PLAIN), fill, font, anchor, stroke_width=bolder)
        elif shape.width:
            corner = (x + shape.width * _PNG_SCALE - 1, y + shape.height * _PNG_SCALE - 1)
            draw.rounded_rectangle((x, y, *corner), shape.radius * _PNG_SCALE, fill)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


FORMATS: dict[str, Callable[[Report], str | bytes]] = {".svg": to_svg, ".html": to_html, ".png": to_png}
