"""From the text runs of a page to what a reader reads: columns, rows, paragraphs, tables.

Coordinates are those of the upright page: x grows to the right, y grows downward, in points (1/72 inch).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from modelworks.data.documents.bidi import Piece, has_rtl, logical
from modelworks.data.documents.build import CELL

_BULLET = re.compile(r"(?:[•‣◦▪●○■□☐☒–—*·-]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)])\s+\S")
_LABEL = re.compile(r"[^\W\d_][\w /-]{0,30}:\s+\S")
_LEADER = re.compile(r"(?:\s?\.){5,}")
"""The dots that lead the eye from a title to its page number."""
_ENDS_SENTENCE = re.compile(r"[.!?:;。！？؟…][\"'”’»)\]]*$")
_COLUMN_CHARACTERS = 12
"""Mean length of the lines of a text column, at least; shorter pieces side by side are cells or labels."""


@dataclass(slots=True)
class Run:
    """Characters that stand together on one line."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float
    """The font's size as drawn, in points."""
    order: int
    """Place in the page's content stream."""
    is_field: bool = False
    """The value of a form field; its size is that of its box, not of a font."""
    hyphen: bool = False
    """Ends with the hyphen of a word that goes on in the next line (left out of `text`)."""
    pieces: list[Piece] = field(default_factory=list)
    """Its words with their places, for a run with right-to-left text; `text` has them in PDFium's order."""


Row = list[Run]
Gap = tuple[float, float]


@dataclass(slots=True)
class Paragraph:
    """Rows that belong together: the text of a paragraph, a heading, a list item or a table."""

    rows: list[Row]
    kind: str
    """"text", "item" or "table"."""
    width_fits: list[bool]
    """For each row but the last: whether its end is meant, as the next row's first word would have fitted on it."""

    @property
    def size(self) -> float:
        """The font's size of its longest run; 0 for a form field alone."""
        longest = max((run for row in self.rows for run in row), key=lambda run: 0 if run.is_field else len(run.text))
        return 0.0 if longest.is_field else longest.size


def reading_order(runs: Sequence[Run]) -> list[list[Row]]:
    """The regions of a page in reading order, each a list of rows from top to bottom.

    Rows are gathered as long as a vertical gutter runs through all of them; where the content stream, too, gives the
    left side before the right one, they are columns, else the rows of a form or a table.
    """
    regions: list[list[Row]] = []
    group: list[Row] = []
    free: list[Gap] = []

    def close(inner: list[Gap]) -> tuple[list[Row], list[Gap]]:
        """End the group; of one without columns, the last rows that leave the gutter `inner` free begin the next."""
        parts = _split(group, free)
        taken: list[Row] = []
        while len(parts) == 1 and inner and group and (common := _intersect(inner, _gaps(group[-1], runs))):
            inner = common
            taken.append(group.pop())
        regions.extend(parts if group else [])
        return taken[::-1], inner

    for row in _rows(runs):
        gaps = _gaps(row, runs)
        common = _intersect(free, gaps) if group else gaps
        if group and not common:
            group, inner = close([gap for gap in gaps if row[0].left < gap[0] and gap[1] < row[-1].right])
            common = inner if group else gaps
        group.append(row)
        free = common
    if group:
        regions += _split(group, free)
    merged: list[list[Row]] = []
    for region in regions:
        # A region that begins beside the one before is the next column; else both are parts of one column.
        if merged and region[0][0].top >= merged[-1][-1][0].top:
            merged[-1] = merged[-1] + region
        else:
            merged.append(region)
    return merged


def _rows(runs: Sequence[Run]) -> list[Row]:
    """Runs whose heights overlap by half, top to bottom, each row from left to right."""
    rows: list[Row] = []
    for run in sorted(runs, key=lambda run: (run.top + run.bottom, run.left)):
        last = rows[-1][0] if rows else None
        overlap = min(last.bottom, run.bottom) - max(last.top, run.top) if last else 0.0
        if last and overlap > 0.5 * min(last.bottom - last.top, run.bottom - run.top):
            rows[-1].append(run)
        else:
            rows.append([run])
    for row in rows:
        row.sort(key=lambda run: run.left)
    return rows


def _gaps(row: Row, runs: Sequence[Run]) -> list[Gap]:
    """The x-intervals of the page that `row` leaves free, margins included, wide enough for a gutter."""
    left, right = min(run.left for run in runs) - 1, max(run.right for run in runs) + 1
    gaps = []
    at = left
    for run in row:
        if run.left - at > 0.5 * run.size:
            gaps.append((at, run.left))
        at = max(at, run.right)
    if right - at > 0:
        gaps.append((at, right))
    return gaps


def _intersect(a: Iterable[Gap], b: Sequence[Gap]) -> list[Gap]:
    pairs = ((max(a0, b0), min(a1, b1)) for a0, a1 in a for b0, b1 in b)
    return [(low, high) for low, high in pairs if high - low > 4]


def _split(group: list[Row], free: list[Gap]) -> list[list[Row]]:
    """The columns of a group, each split further; or the group as it is."""
    runs = [run for row in group for run in row]
    for low, high in sorted(free, key=lambda gap: gap[0] - gap[1]):
        middle = (low + high) / 2
        left = [run for run in runs if run.right <= middle]
        right = [run for run in runs if run.left >= middle]
        if len(left) + len(right) == len(runs) and _are_columns(left, right):
            first, second = (right, left) if _is_rtl(runs) else (left, right)
            return reading_order(first) + reading_order(second)
    return [group]


def _are_columns(left: list[Run], right: list[Run]) -> bool:
    if min(len(left), len(right)) < 3:
        return False
    if any(sum(len(run.text) for run in side) < _COLUMN_CHARACTERS * len(side) for side in (left, right)):
        return False
    side = {id(run): False for run in left} | {id(run): True for run in right}
    stream = [side[id(run)] for run in sorted(left + right, key=lambda run: run.order)]
    changes = sum(a != b for a, b in pairwise(stream))
    return changes <= 1 + 0.2 * min(len(left), len(right))


def _is_rtl(runs: Sequence[Run]) -> bool:
    return 2 * sum(len(run.text) for run in runs if has_rtl(run.text)) > sum(len(run.text) for run in runs)


def paragraphs(region: list[Row]) -> Iterator[Paragraph]:
    """The paragraphs of a region, by gaps, sizes, indents, bullets, and lines that end before they must."""
    steps = sorted(
        step
        for a, b in pairwise(region)
        if abs(a[0].size - b[0].size) < 1 and 0.8 * a[0].size < (step := b[0].bottom - a[0].bottom) < 2 * a[0].size
    )
    # The lower quartile: in short text, gaps between paragraphs are many.
    pitch = steps[len(steps) // 4] if steps else 0.0
    for is_table, rows in _tables_apart(region):
        if is_table:
            yield Paragraph(rows, "table", [True] * (len(rows) - 1))
            continue
        chunk: list[Row] = []
        for row in rows:
            if chunk and _parts(chunk[-1], row, pitch):
                yield from _lines_apart(chunk)
                chunk = []
            chunk.append(row)
        if chunk:
            yield from _lines_apart(chunk)


def _tables_apart(region: list[Row]) -> Iterator[tuple[bool, list[Row]]]:
    """Tables (at least three rows in sequence of several cells each) and the rows between them."""
    at = start = 0
    while at < len(region):
        stop = at
        while stop < len(region) and _cells(region[stop]) > 1 and abs(region[stop][0].size - region[at][0].size) < 1:
            stop += 1
        if stop - at >= 3 and not any(run.is_field for row in region[at:stop] for run in row):
            if start < at:
                yield False, region[start:at]
            yield True, region[at:stop]
            start = at = stop
        else:
            at = max(stop, at + 1)
    if start < len(region):
        yield False, region[start:]


def _cells(row: Row) -> int:
    """How many pieces of the row stand clearly apart."""
    return 1 + sum(b.left - a.right > 0.9 * max(a.size, b.size) for a, b in pairwise(row))


def _parts(above: Row, below: Row, pitch: float) -> bool:
    """Whether size or distance say that `below` begins something new."""
    a, b = above[0], below[0]
    size = max(a.size, b.size)
    if abs(a.size - b.size) > 0.12 * size:
        return True
    step = b.bottom - a.bottom
    usual = pitch or 1.25 * size
    return step > 1.3 * usual or step < 0


def _lines_apart(rows: list[Row]) -> Iterator[Paragraph]:
    """Rows of one size at even distances, parted where a line ends early or the next one is indented or bulleted."""
    right = max(run.right for row in rows for run in row)
    left = min(row[0].left for row in rows)
    labels = len(rows) > 1 and all(_LABEL.match(row_text(row)) for row in rows[1:])
    fits = [labels or _fits(a, b, right) for a, b in pairwise(rows)]
    start = 0
    for index in range(len(rows)):
        if index + 1 < len(rows):
            text, below = row_text(rows[index]), rows[index + 1]
            size = below[0].size
            ends = bool(_ENDS_SENTENCE.search(text))
            indented = below[0].left - rows[index][0].left > 0.8 * size and below[0].left - left > 0.8 * size
            if not (_BULLET.match(row_text(below)) or (ends and (fits[index] or indented))):
                continue
        kind = "item" if _BULLET.match(row_text(rows[start])) else "text"
        yield Paragraph(rows[start : index + 1], kind, fits[start:index])
        start = index + 1


def _fits(above: Row, below: Row, right: float) -> bool:
    """Whether the first word of `below` had room at the end of `above`, or either is a line of a form."""
    if any(len(row) > 1 and (row[0].is_field or _widest_gap(row) > 2.5) for row in (above, below)):
        return True
    run = below[0]
    word = run.text.split(" ", 1)[0]
    width = (run.right - run.left) * (len(word) + 1.5) / max(len(run.text), 1)
    return above[-1].right + width < right and not above[-1].hyphen


def _widest_gap(row: Row) -> float:
    """In ems. Justified text may have gaps, too, but not such wide ones."""
    return max((b.left - a.right) / max(a.size, b.size, 1) if not b.is_field else 9 for a, b in pairwise(row))


def row_text(row: Row, separator: str = " ") -> str:
    """The row's runs; those that touch (a superscript, a change of font) without a space between."""
    if any(run.pieces for run in row) and separator == " ":
        words = (run.pieces or [Piece(run.text, run.left, run.right, 1)] for run in row)
        return logical((piece for run in words for piece in run), row[0].size)
    parts = [_run_text(row[0])]
    for a, b in pairwise(row):
        touch = -0.5 * a.size < b.left - a.right < 0.15 * a.size
        parts += ["" if touch else separator, _run_text(b)]
    return "".join(parts)


def _run_text(run: Run) -> str:
    return logical(run.pieces, run.size) if run.pieces else run.text


def _table_text(rows: list[Row]) -> str:
    """Rows of cells; where they can be told, empty cells are kept so that columns stay columns."""
    widest = max(rows, key=len)
    spans = [[run.left, run.right] for run in widest]
    lines = []
    for row in rows:
        cells = [""] * len(spans)
        last = -1
        for run in row:
            overlaps = [min(run.right, right) - max(run.left, left) for left, right in spans]
            column = max(range(len(spans)), key=overlaps.__getitem__)
            if overlaps[column] <= 0 or column <= last:  # no grid after all
                return "\n".join(row_text(row, CELL) for row in rows)
            last = column
            cells[column] = _run_text(run)
        lines.append(CELL.join(cells[: last + 1]))
    return "\n".join(lines)


def text_of(paragraph: Paragraph, compounds: frozenset[str]) -> str:
    """The paragraph as one text: lines joined by spaces, split words mended, line ends that are meant kept.

    Args:
        paragraph: rows from `paragraphs`.
        compounds: words that the document spells with a hyphen in mid-line; such a word keeps it at a line's end.
    """
    if paragraph.kind == "table":
        return _LEADER.sub(" …", _table_text(paragraph.rows))
    text = row_text(paragraph.rows[0])
    for row, above, fits in zip(paragraph.rows[1:], paragraph.rows, paragraph.width_fits):
        text = join_lines(text, row_text(row), above[-1].hyphen, compounds, "\n" if fits else " ")
    return _LEADER.sub(" …", text)


def join_lines(text: str, below: str, hyphen: bool, compounds: frozenset[str], separator: str = " ") -> str:
    """Two lines as one; a word split by a hyphen is joined unless the hyphen is its own ("Schwarz-" + "Weiß")."""
    if not hyphen:
        return f"{text}{separator}{below}"
    head, tail = text.rsplit(None, 1)[-1:], below.split(None, 1)[:1]
    compound = f"{''.join(head)}-{''.join(tail)}".strip(".,;:!?()\"'").lower()
    keep = not below[:1].islower() or compound in compounds
    return f"{text}{'-' if keep else ''}{below}"
