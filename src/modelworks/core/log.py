"""Terminal output: one console for messages, one progress bar, warnings said once."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


@functools.cache
def console() -> Console:
    """The console for messages and progress, on standard error so that standard output stays data."""
    from rich.console import Console  # rich costs ~40 ms; `--help` and plain imports do without

    return Console(stderr=True)


# C0 and C1 controls, which move the cursor and recolour a terminal, and surrogates, which are bytes that are not text.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def escaped(text: str) -> str:
    """A file name or message as one line: control characters become escapes such as \\n."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


@functools.cache
def warn_once(message: str) -> None:
    """Print a warning, at most once a process."""
    console().print(f"warning: {escaped(message)}", style="yellow", highlight=False, markup=False)


class Advance(Protocol):
    def __call__(self, done: int = 1, *, note: str | None = None) -> None: ...


@contextmanager
def progress(title: str, total: int | None, *, quiet: bool = False) -> Iterator[Advance]:
    """A progress bar with rate and time left; silent when `quiet` or when standard error is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done=1, *, note=None: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),  # a file may be called "[/dim]"
    )
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(done: int = 1, *, note: str | None = None) -> None:
            bar.advance(task, done)
            if note is not None:
                bar.update(task, note=escaped(note))

        yield advance
