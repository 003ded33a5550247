"""Pictures: the same shapes in every format, and a file's ending says which."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from modelworks.core.errors import ConfigError
from modelworks.core.picture import COLOURS, Box, Dot, Line, Picture, Text, check_suffix, cut

SVG = "{http://www.w3.org/2000/svg}"
PICTURE = Picture(
    "<a> title",
    [
        Line(((10, 90), (50, 50), (90, 90)), "band", filled=True),
        Line(((10, 10), (90, 10)), "second", width=3),
        Line(tuple((10 + 2.0 * at, 30.0) for at in range(41)), "third", dashed=True),
        Dot(50, 50, "own"),
        Dot(80, 50, "fourth", hollow=True),
        Box(5, 5, 4, 4, "peer"),
        Text(50, 95, "a & b", anchor="middle", bold=True),
    ],
    100,
    100,
)


def test_svg_has_every_shape_and_no_markup_from_texts() -> None:
    root = ElementTree.fromstring(PICTURE.to_svg())
    kinds = [element.tag.removeprefix(SVG) for element in root]
    for kind, number in {"polygon": 1, "polyline": 2, "circle": 2, "rect": 2, "text": 1}.items():
        assert kinds.count(kind) == number
    assert root.find(f"{SVG}text").text == "a & b"
    assert root.find(f"{SVG}title").text == "<a> title"


def test_png_has_every_colour() -> None:
    image = Image.open(io.BytesIO(PICTURE.to_png()))
    assert image.size == (200, 200)
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    for role in ("band", "second", "third", "own", "fourth", "peer"):
        assert tuple(bytes.fromhex(COLOURS[role][0][1:])) in colours, role


@pytest.mark.parametrize(("name", "begins"), [("a.svg", b"<svg"), ("a.html", b"<!doctype"), ("a.PNG", b"\x89PNG")])
def test_the_ending_says_the_format(tmp_path: Path, name: str, begins: bytes) -> None:
    PICTURE.save(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_another_ending_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a\.gif: a picture is \.svg, \.html, \.png"):
        check_suffix(Path("a.gif"))


def test_a_text_that_would_not_fit_is_cut() -> None:
    assert cut("short", 10, 100) == "short"
    assert cut("x" * 99, 10, 57) == "x" * 9 + "…"


def test_an_element_of_a_page_has_its_attributes_and_no_style_of_its_own() -> None:
    root = ElementTree.fromstring(PICTURE.to_element({"data-axis": 'a"b'}))
    assert root.get("data-axis") == 'a"b'
    assert root.get("aria-label") == "<a> title"
    assert [element.tag for element in root if element.tag in ("style", "title")] == []
