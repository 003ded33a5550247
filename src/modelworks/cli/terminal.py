"""Output that every verb shares: text that is safe on a terminal, JSON, notes beside the output."""

from __future__ import annotations

import json
import re
import sys
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
