"""Reading order and line joining, on runs placed by hand."""

from __future__ import annotations

from modelworks.data.documents.layout import Run, join_lines, paragraphs, reading_order, text_of


def run(text: str, left: float, top: float, order: int, width: float | None = None, **more: object) -> Run:
    return Run(text, left, top, left + (width or 5 * len(text)), top + 10, 10, order, **more)  # type: ignore[arg-type]


def texts(runs: list[Run]) -> list[str]:
    regions = reading_order(runs)
    return [text_of(paragraph, frozenset()) for region in regions for paragraph in paragraphs(region)]


def test_forms_are_read_row_by_row_with_their_values() -> None:
    runs = [
        run("First name", 50, 100, 0),
        run("Last name", 250, 100, 1),
        run("Town", 50, 115, 2),
        run("Ada", 110, 100, 1 << 30, is_field=True),
        run("London", 110, 115, 1 << 30, is_field=True),
    ]
    assert texts(runs) == ["First name Ada Last name\nTown London"]


def test_columns_need_the_streams_word() -> None:
    rows = range(6)
    left = [run(f"left side of row {i} with text", 50, 100 + 12 * i, i) for i in rows]
    right = [run(f"right side of row {i} with text", 300, 100 + 12 * i, 10 + i) for i in rows]
    assert [text.split()[0] for text in texts(left + right)] == ["left", "right"]
    for i in rows:  # the same places, written row by row: a table
        left[i].order, right[i].order = 2 * i, 2 * i + 1
    [table] = texts(left + right)
    assert table.startswith("left side of row 0 with text | right side of row 0 with text\nleft side of row 1")


def test_words_split_at_a_line_end() -> None:
    assert join_lines("con", "tent", True, frozenset()) == "content"
    assert join_lines("the well", "known fox", True, frozenset({"well-known"})) == "the well-known fox"
    assert join_lines("Schwarz", "Weiß", True, frozenset()) == "Schwarz-Weiß"
    assert join_lines("one", "two", False, frozenset()) == "one two"


def test_dots_that_lead_to_a_page_number_are_shortened() -> None:
    assert texts([run("Chapter . . . . . . . . . . . 7", 50, 100, 0)]) == ["Chapter … 7"]
