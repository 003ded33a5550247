"""What the three Office formats share: the container's safety, charts, and numbers as their cells show them."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from lxml import etree

from modelworks.core.errors import DocumentError
from modelworks.data.documents.build import one_line

_MAX_UNPACKED = 1 << 30
_MAX_RATIO = 300
"""Text in XML packs about 10 to 30 times; a bomb packs 1,000 times (42.zip's layers). Small parts may pack better."""
_RATIO_FREE = 16 << 20
_MAX_PARTS = 50_000
_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_FORMAT_NUMBER = re.compile(r"[#0?,]*0(?:\.(?P<decimals>[0#?]+))?")
_QUOTED = re.compile(r'"([^"]*)"|\\(.)|_.|\*.|\[\$([^\]-]*)[^\]]*\]|\[[^\]]*\]')


def container(data: bytes) -> io.BytesIO:
    """The Office file as a stream, once it is known to be a whole ZIP archive that unpacks to a sane size.

    Raises:
        DocumentError: broken, a decompression bomb, or XML with a document type (entity expansion).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
            _check_sizes(parts)
            for part in parts:
                # OOXML forbids document types (ECMA-376 part 2, clause 9.1.2); only an attack has one.
                if part.filename.endswith((".xml", ".rels")):
                    with archive.open(part) as stream:
                        head = stream.read(4096)
                        if b"<!DOCTYPE" in head or "<!DOCTYPE".encode("utf-16-le") in head:
                            raise DocumentError(f"unsafe: {part.filename} declares XML entities")
    except zipfile.BadZipFile:
        raise DocumentError("broken: the file is cut short or its ZIP container is damaged") from None
    return io.BytesIO(data)


def _check_sizes(parts: list[zipfile.ZipInfo]) -> None:
    if len(parts) > _MAX_PARTS:
        raise DocumentError(f"unsafe: the container declares {len(parts):,} parts")
    unpacked = sum(part.file_size for part in parts)
    if unpacked > _MAX_UNPACKED:
        raise DocumentError(f"unsafe: the container unpacks to {unpacked / (1 << 20):,.0f} MiB")
    for part in parts:
        if part.file_size > _RATIO_FREE and part.file_size > _MAX_RATIO * max(part.compress_size, 1):
            raise DocumentError(
                f"unsafe: {part.filename} unpacks to {part.file_size // max(part.compress_size, 1)} times its size"
            )


def parse_xml(blob: bytes) -> Any:
    """The root element of a part, entities never resolved."""
    return etree.fromstring(blob, etree.XMLParser(resolve_entities=False, no_network=True))


def drawing_text(root: Any) -> str:
    """The text of DrawingML paragraphs under `root`, one line each."""
    lines = ("".join(t.text or "" for t in p.iter(f"{_DRAWING}t")) for p in root.iter(f"{_DRAWING}p"))
    return "\n".join(line for line in lines if line.strip())


def diagram_text(blob: bytes) -> str:
    """The texts of a SmartArt graphic's points, one line each."""
    points = (drawing_text(point) for point in parse_xml(blob).iter(f"{_DIAGRAM}pt"))
    return "\n".join(text for text in points if text)


def chart(blob: bytes) -> tuple[list[str], list[list[str]]]:
    """A chart's titles (its own, then its axes') and its data as rows: categories down, one column a series."""
    root = parse_xml(blob)
    titles = [text.replace("\n", " ") for title in root.iter(f"{_CHART}title") if (text := _chart_text(title))]
    names: list[str] = []
    columns: list[dict[int, str]] = []
    categories: dict[int, str] = {}
    for series in root.iter(f"{_CHART}ser"):
        name = series.find(f"{_CHART}tx")
        names.append(_chart_text(name) if name is not None else f"Series {len(names) + 1}")
        values = dict(_points(_first(series, "val", "yVal")))
        for label in series.iter(f"{_CHART}dLbl"):  # text that the author typed at a point
            index = label.find(f"{_CHART}idx")
            if index is not None and (typed := drawing_text(label)):
                point = int(index.get("val", 0))
                values[point] = f"{values.get(point, '')} ({one_line(typed)})".strip()
        columns.append(values)
        labels = dict(_points(_first(series, "cat", "xVal")))
        categories = {**labels, **categories}
    indices = sorted({index for column in (categories, *columns) for index in column})
    rows = [["", *names]] if names else []
    rows += [[categories.get(i, ""), *(column.get(i, "") for column in columns)] for i in indices]
    return titles, rows


def _first(series: Any, *tags: str) -> Any:
    return next((found for tag in tags if (found := series.find(f"{_CHART}{tag}")) is not None), None)


def _chart_text(element: Any) -> str:
    """A title or a series name: typed text, or the cached text of the cell that it refers to."""
    return drawing_text(element) or " ".join(v.text or "" for v in element.iter(f"{_CHART}v"))


def _points(source: Any) -> Iterator[tuple[int, str]]:
    """Index and shown text of each cached point; categories of several levels are joined, outermost first."""
    if source is None:
        return
    code = source.findtext(f".//{_CHART}formatCode", "General")
    levels = [list(level.iter(f"{_CHART}pt")) for level in source.iter(f"{_CHART}lvl")]
    if not levels:
        for point in source.iter(f"{_CHART}pt"):
            yield int(point.get("idx", 0)), shown_number(point.findtext(f"{_CHART}v", ""), code)
        return
    for point in levels[0]:  # the innermost level comes first; an outer label holds until the next one
        index = int(point.get("idx", 0))
        path = [point.findtext(f"{_CHART}v", "")]
        for level in levels[1:]:
            above = [p for p in level if int(p.get("idx", 0)) <= index]
            path += [above[-1].findtext(f"{_CHART}v", "")] if above else []
        yield index, " ".join(reversed(path))


def shown_number(value: str | float, code: str) -> str:
    """A number as a cell of number format `code` shows it (ECMA-376 part 1, 18.8.31: the common part of it).

    Decimals, thousands, percent and literal text are followed; of conditions, fractions and exponents the value
    is given in full instead.
    """
    try:
        number = float(value)
    except ValueError:
        return str(value)
    if number - number != 0:  # inf and nan
        return str(value)
    sections = code.split(";")
    section = sections[1] if number < 0 and len(sections) > 1 and sections[1] else sections[0]
    pattern = _QUOTED.sub("", section)
    found = _FORMAT_NUMBER.search(pattern)
    if code.lower() == "general" or found is None or set(pattern.upper()) & set("E/@YMDHS"):
        return _general(number)
    decimals = found["decimals"] or ""
    fixed = decimals.rstrip("#?")
    if "%" in pattern:
        number *= 100
    if section is not sections[0]:
        number = abs(number)
    text = f"{number:{',' if ',' in found.group() else ''}.{len(decimals)}f}"
    for _ in range(len(decimals) - len(fixed)):
        text = text[:-1] if text.endswith("0") else text
    text = text.rstrip(".")
    literal = _QUOTED.sub(lambda m: m[1] or m[2] or m[3] or "", section)
    place = _FORMAT_NUMBER.search(literal)
    return (literal[: place.start()] + text + literal[place.end() :]).strip() if place else text


def _general(number: float) -> str:
    """The format "General": up to eleven significant digits."""
    if number == int(number) and abs(number) < 1e15:
        return str(int(number))
    return f"{number:.10g}"
