"""Pictures of a few shapes, drawn alike as SVG, as a page around it, and as PNG.

Shapes have roles for colours, so that a picture follows the light or dark of who looks at it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Literal

from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped

_PNG_SCALE = 2
_LETTER = 0.56  # of a font's size, a letter's width on average; for cutting what would not fit
# What the font of a PNG lacks.
PLAIN = str.maketrans({"×": "x", "…": "..."})

# By role: in light, in dark. Texts have at least 4.5 times the background's contrast (WCAG 2.2, 1.4.3).
COLOURS = {
    "surface": ("#ffffff", "#10161f"),
    "text": ("#14202e", "#e8eef6"),
    "muted": ("#56657a", "#9aa8ba"),
    "line": ("#e3e8ef", "#263040"),
    "own": ("#1d6fe0", "#5aa2ff"),
    "peer": ("#9aa7b8", "#64748b"),
    "band": ("#cfe1fb", "#1c3355"),
    "second": ("#c2410c", "#fb923c"),
    "third": ("#0f766e", "#2dd4bf"),
    "fourth": ("#7e22ce", "#c084fc"),
    "fifth": ("#be185d", "#f472b6"),
    "sixth": ("#854d0e", "#facc15"),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


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
    """One line; (x, y) is on its baseline, at its start, its middle or its end."""

    x: float
    y: float
    text: str
    size: float = 13
    role: str = "text"
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False


@dataclass(frozen=True)
class Line:
    """A line through points, or with `filled` the area within."""

    points: tuple[tuple[float, float], ...]
    role: str
    width: float = 2.0
    filled: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    role: str
    radius: float = 3.5
    hollow: bool = False


Shape = Box | Text | Line | Dot


@dataclass(frozen=True)
class Picture:
    """Shapes in the order in which they are drawn."""

    title: str
    shapes: Sequence[Shape]
    width: int
    height: int

    def save(self, path: Path) -> None:
        """Write it in the format of the file's ending. Raises ConfigError for another ending."""
        check_suffix(path)
        drawn = FORMATS[path.suffix.lower()](self)
        path.write_bytes(drawn if isinstance(drawn, bytes) else drawn.encode())

    def to_svg(self) -> str:
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img" font-family="{FONT}">',
                f"<title>{escape(escaped(self.title))}</title>",
                f"<style>{style()}</style>",
                f'<rect class="surface" width="{self.width}" height="{self.height}" rx="10"/>',
                *(_svg(shape) for shape in self.shapes),
                "</svg>\n",
            ]
        )

    def to_element(self, attributes: Mapping[str, str]) -> str:
        """An `svg` element, with attributes of its own, for a page that has `style()` and a background."""
        named = {"viewBox": f"0 0 {self.width} {self.height}", "role": "img", "aria-label": escaped(self.title)}
        stated = "".join(f' {name}="{escape(value)}"' for name, value in (named | dict(attributes)).items())
        return "\n".join([f"<svg{stated}>", *(_svg(shape) for shape in self.shapes), "</svg>\n"])

    def to_html(self, body: str = "") -> str:
        """A page of its own, with `body` (HTML) after the picture; it loads nothing."""
        light, dark = ({role: pair[at] for role, pair in COLOURS.items()} for at in (0, 1))
        return (
            '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
            f'content="light dark"><title>{escape(escaped(self.title))}</title>\n<style>\n'
            f":root{{--surface:{light['surface']};--text:{light['text']};--muted:{light['muted']};"
            f"--line:{light['line']}}}\n@media (prefers-color-scheme:dark){{:root{{--surface:{dark['surface']};"
            f"--text:{dark['text']};--muted:{dark['muted']};--line:{dark['line']}}}}}\n"
            f"body{{margin:0 auto;max-width:{self.width}px;padding:1rem;background:var(--surface);color:var(--text);"
            f"font:14px/1.5 {FONT}}}\n"
            "svg{display:block;width:100%;height:auto}div{overflow-x:auto}\n"
            "table{border-collapse:collapse;width:100%;margin:1rem 0}"
            "td,th{padding:.35rem .6rem;text-align:left;border-bottom:1px solid var(--line)}\n"
            "dt{font-weight:600}dd{margin:0 0 .6rem;color:var(--muted);overflow-wrap:anywhere}\n</style>\n"
            f"{self.to_svg()}{body}</html>\n"
        )

    def to_png(self) -> bytes:
        """In light colours, at twice its size, with the font that Pillow brings."""
        from PIL import Image, ImageDraw, ImageFont

        scale = _PNG_SCALE
        image = Image.new("RGB", (self.width * scale, self.height * scale), COLOURS["surface"][0])
        draw = ImageDraw.Draw(image)
        for shape in self.shapes:
            fill = COLOURS[shape.role][0]
            if isinstance(shape, Text):
                font = ImageFont.load_default(shape.size * scale)
                anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
                text, at = shape.text.translate(PLAIN), (shape.x * scale, shape.y * scale)
                draw.text(at, text, fill, font, anchor, stroke_width=0.5 if shape.bold else 0)
            elif isinstance(shape, Box):
                if shape.width:
                    x, y = shape.x * scale, shape.y * scale
                    corner = (x + shape.width * scale - 1, y + shape.height * scale - 1)
                    draw.rounded_rectangle((x, y, *corner), shape.radius * scale, fill)
            elif isinstance(shape, Dot):
                outline = {"outline": fill, "width": 3} if shape.hollow else {"fill": fill}
                draw.circle((shape.x * scale, shape.y * scale), shape.radius * scale, **outline)
            else:
                points = [(x * scale, y * scale) for x, y in shape.points]
                if shape.filled:
                    draw.polygon(points, fill)
                else:
                    pairs = list(pairwise(points))
                    for pair in pairs[::2] if shape.dashed else pairs:
                        draw.line(pair, fill, round(shape.width * scale))
        out = io.BytesIO()
        image.save(out, "PNG", optimize=True)
        return out.getvalue()


FORMATS: dict[str, Callable[[Picture], str | bytes]] = {
    ".svg": Picture.to_svg,
    ".html": Picture.to_html,
    ".png": Picture.to_png,
}
"""By a file's ending."""


def style() -> str:
    """The style sheet of pictures, in light and dark."""
    light, dark = ("".join(_rule(role, colours[at]) for role, colours in COLOURS.items()) for at in (0, 1))
    return f"{light}.bold{{font-weight:600}}@media (prefers-color-scheme:dark){{{dark}}}"


def check_suffix(path: Path) -> None:
    """Raise ConfigError for a file whose ending is no picture's; before what costs time, not after it."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: a picture is {', '.join(FORMATS)}; name a file that ends so")


def cut(text: str, size: float, width: float) -> str:
    """As much of a text as fits into a width, at a font's size."""
    most = int(width / (size * _LETTER))
    return text if len(text) <= most else text[: most - 1] + "…"


def _rule(role: str, colour: str) -> str:
    return f".{role}{{fill:{colour}}}.{role}-drawn{{stroke:{colour};fill:none}}"


def _svg(shape: Shape) -> str:
    if isinstance(shape, Box):
        return (
            f'<rect class="{shape.role}" x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:.1f}" '
            f'height="{shape.height:g}" rx="{shape.radius:g}"/>'
        )
    if isinstance(shape, Dot):
        drawn = "-drawn" if shape.hollow else ""
        return f'<circle class="{shape.role}{drawn}" cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:g}"/>'
    if isinstance(shape, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        if shape.filled:
            return f'<polygon class="{shape.role}" points="{points}"/>'
        dashes = ' stroke-dasharray="6 5"' if shape.dashed else ""
        return f'<polyline class="{shape.role}-drawn" stroke-width="{shape.width:g}"{dashes} points="{points}"/>'
    anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
    bold = " bold" if shape.bold else ""
    return (
        f'<text class="{shape.role}{bold}" x="{shape.x:.1f}" y="{shape.y:g}" font-size="{shape.size:g}"{anchor}>'
        f"{escape(shape.text)}</text>"
    )
