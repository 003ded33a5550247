"""Output that every verb shares: text that is safe on a terminal, JSON, notes beside the output."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from modelworks.core.errors import ModelworksError
from modelworks.core.log import console, escaped

if TYPE_CHECKING:
    from rich.console import Console

Flag = Annotated[bool, Parameter(show_default=False)]
Json = Annotated[bool, Parameter(name="--json", show_default=False)]


def flowing(text: str) -> str:
    """A passage of a document as one line: its line ends become spaces, its control characters escapes."""
    return escaped(re.sub(r"\s+", " ", text))


def print_json(value: Any) -> None:
    """Print one JSON value on one line, readable where the output's encoding allows."""
    print(json.dumps(value, ensure_ascii=sys.stdout.encoding.lower() not in ("utf-8", "utf8")))


def note(text: str) -> None:
    """Say something beside the output, on standard error."""
    console().print(escaped(text), style="dim", highlight=False, markup=False, soft_wrap=True)


def stdout() -> Console:
    """A console for what the user asked for: coloured and wrapped at words on a terminal, plain lines elsewhere."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def print_indented(text: str) -> None:
    """Print a line, indented by four columns; where a terminal has to wrap it, all of it."""
    from rich.padding import Padding
    from rich.text import Text

    out = stdout()
    out.print(Padding(Text(text), (0, 0, 0, 4), expand=False) if sys.stdout.isatty() else f"    {text}")


def check_text(what: str, text: str) -> None:
    """Raise ModelworksError for an argument that is empty or whose bytes are not UTF-8."""
    if not text.strip():
        raise ModelworksError(f"the {what} is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ModelworksError(f"the {what} is not UTF-8")


def print_lines(title: str, lines: Sequence[tuple[str, str]]) -> None:
    """Print names and what there is to say of each, under a title."""
    out = stdout()
    out.print(title, style="bold")
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        out.print(f"{name:<{width}}  {escaped(text)}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as it is; all columns but the first and the last are numbers, at the right."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    last = len(columns) - 1

    def line(cells: Sequence[str]) -> str:
        placed = (f"{cell:{'<' if at in (0, last) else '>'}{widths[at]}}" for at, cell in enumerate(cells))
        return "  ".join(placed).rstrip()

    out = stdout()
    out.print(line(columns), soft_wrap=True)
    out.print("─" * (sum(widths) + 2 * last), soft_wrap=True)
    for row in rows:
        out.print(line(row), soft_wrap=True)
