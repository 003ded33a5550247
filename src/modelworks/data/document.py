"""What a file becomes once read: one text, and where its pages and blocks lie in it.

Every offset in modelworks counts characters (Python code points) of `Document.text`; nothing downstream ever
searches for a text again to learn where it stood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["heading", "paragraph", "list", "table", "code"]


@dataclass(frozen=True, slots=True)
class Page:
    """A page, slide or sheet: `text[start:end]`. Formats without pages have one page, number 1."""

    number: int
    start: int
    end: int
    label: str = ""
    """What people call it where a number is not enough: a sheet's or slide's name, a PDF's page label."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece that a chunker should keep whole where it can: `text[start:end]`."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    """Depth of a heading (1 is the title's, beyond 6 for documented names within sections); 0 for everything else."""
    header_end: int | None = None
    """For a table, where its header row ends, so that every chunk of it can repeat `text[start:header_end]`."""


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file with its structure; pages and blocks are in order and do not overlap."""

    text: str
    pages: tuple[Page, ...]
    blocks: tuple[Block, ...]
    media_type: str
    title: str = ""
    notes: tuple[str, ...] = ()
    """What a reader of the ingestion report should know, e.g. "pages 3-4 hold only images"."""

    @property
    def reflows(self) -> bool:
        """Whether a line end within a paragraph is no more than a space."""
        return self.media_type in ("text/markdown", "text/x-rst")
