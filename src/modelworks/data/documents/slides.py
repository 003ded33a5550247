"""Presentations: a page a slide; titles, text, tables, charts and SmartArt in reading order, then speaker notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelworks.data.document import Document
from modelworks.data.documents.build import Builder, one_line, ranges
from modelworks.data.documents.office import chart, container, diagram_text, drawing_text

_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_DIAGRAM_REFERENCE = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"
_ALTERNATE = "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
_CHOICE = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Choice"
_ROW = 300_000
"""Shapes whose tops lie within a third of an inch (914,400 EMU an inch) are read from left to right."""


def read(data: bytes, suffix: str) -> Document:
    import pptx

    presentation = pptx.Presentation(container(data))
    builder = Builder("application/vnd.openxmlformats-officedocument.presentationml.presentation")
    builder.title = presentation.core_properties.title or ""
    hidden = []
    for number, slide in enumerate(presentation.slides, 1):
        title = slide.shapes.title
        heading = one_line(_plain(title.text_frame.text)) if title is not None else ""
        builder.page(heading)
        builder.block("heading", heading, level=1)
        for shape in _in_order(slide.shapes, title):
            _add(builder, shape)
        for alternate in slide.shapes._spTree.iter(_ALTERNATE):  # equations and other newer content
            for choice in alternate.iterchildren(_CHOICE):
                builder.block("paragraph", drawing_text(choice))
        if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None and frame.text.strip():
            builder.block("paragraph", f"Notes: {_plain(frame.text)}")
        if slide._element.get("show") == "0":
            hidden.append(number)
    if hidden:
        builder.notes.append(f"hidden slides are read too: {ranges(hidden)}")
    return builder.document()


def _plain(text: str) -> str:
    return text.replace("\v", "\n")  # how python-pptx gives a line break


def _in_order(shapes: Any, title: Any) -> Iterator[Any]:
    """Every shape but the title and pure groups, top to bottom and left to right."""

    def place(shape: Any) -> tuple[int, int]:
        return (shape.top or 0) // _ROW, shape.left or 0

    for shape in sorted(shapes, key=place):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if hasattr(shape, "shapes"):
            yield from _in_order(shape.shapes, None)
        else:
            yield shape


def _add(builder: Builder, shape: Any) -> None:
    if getattr(shape, "has_table", False) and shape.has_table:
        builder.table([[_plain(cell.text) for cell in row.cells] for row in shape.table.rows])
    elif getattr(shape, "has_chart", False) and shape.has_chart:
        titles, rows = chart(shape.chart.part.blob)
        builder.block("paragraph", "\n".join(titles))
        builder.table(rows)
    elif shape.has_text_frame:
        lines = [text for p in shape.text_frame.paragraphs if (text := _plain(p.text).strip())]
        if len(lines) > 1 and shape.is_placeholder:
            builder.block("list", "\n".join(lines))
        else:
            builder.block("paragraph", "\n".join(lines))
    else:
        for reference in shape._element.iter(_DIAGRAM_REFERENCE):
            builder.block("list", diagram_text(shape.part.related_part(reference.get(f"{_R}dm")).blob))
