"""Presentations: slides as pages, in the order in which people read them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pptx
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from modelworks.data.document import Document
from modelworks.data.documents import read


def saved(presentation: Any) -> bytes:
    out = io.BytesIO()
    presentation.save(out)
    return out.getvalue()


def test_slides(checked: Callable[[Document], Document]) -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Results"
    slide.placeholders[1].text = "first\nsecond"
    slide.notes_slide.notes_text_frame.text = "Say thanks."
    second = deck.slides.add_slide(deck.slide_layouts[6])
    for left, top, text in ((5, 1, "right"), (1, 3, "below"), (1, 1, "left")):
        second.shapes.add_textbox(Inches(left), Inches(top), Inches(2), Inches(1)).text_frame.text = text
    second._element.set("show", "0")
    third = deck.slides.add_slide(deck.slide_layouts[6])
    table = third.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for index, text in enumerate(["City", "Pop", "Köln", "1,1"]):
        table.cell(index // 2, index % 2).text = text
    document = checked(read(saved(deck), ".pptx"))
    pages = [(page.label, document.text[page.start : page.end]) for page in document.pages]
    assert pages == [
        ("Results", "Results\n\nfirst\nsecond\n\nNotes: Say thanks."),
        ("", "left\n\nright\n\nbelow"),
        ("", "City | Pop\nKöln | 1,1"),
    ]
    assert document.notes == ("hidden slides are read too: 2",)


def test_charts_are_tables_of_what_they_show() -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    data = CategoryChartData(number_format="0.0%")
    data.categories = ["Q1", "Q2"]
    data.add_series("Share", (0.125, 0.5))
    data.add_series("Goal", (0.25, None))
    frame = slide.shapes.add_chart(XL_CHART_TYPE.LINE, Inches(1), Inches(1), Inches(5), Inches(4), data)
    frame.chart.has_title = True
    frame.chart.chart_title.text_frame.text = "Market share"
    assert read(saved(deck), ".pptx").text == "Market share\n\n| Share | Goal\nQ1 | 12.5% | 25.0%\nQ2 | 50.0%"
