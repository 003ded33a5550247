"""A text that values are copied from, read once for what it mentions; and a value with its place in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

from modelworks.agents.small.mentions import Mention, enumerations, mentions

_LONGEST: Final = 4000
Source: TypeAlias = Literal["query", "observation", "enum", "default", "description"]


@dataclass(frozen=True, slots=True)
class Option:
    """A value that a parameter may have, where it is from, and how well that fits; `mention` is its span."""

    value: Any
    source: Source
    fit: float
    mention: Mention | None = None
    margin: float = 0.0
    """How far a reader takes it for the value, in logits; 0 where none was asked."""

    @property
    def is_gap(self) -> bool:
        """Whether the text has the value's place and not the value, so that it can only be asked for."""
        return self.mention is not None and self.mention.kind == "gap"

    @property
    def text(self) -> str:
        return json.dumps(self.value, ensure_ascii=False)


@dataclass(frozen=True, eq=False)
class Text:
    """A text to copy from, what it mentions, and how it lists that."""

    text: str
    mentions: tuple[Mention, ...]
    groups: tuple[tuple[Mention, ...], ...]
    source: Source = "query"

    def lies_within(self, mention: Mention, kinds: Sequence[str]) -> bool:
        """Whether a span lies in another of these kinds."""
        return any(other.kind in kinds and _holds(other, mention) for other in self.mentions)

    def lies_in_brackets(self, mention: Mention) -> bool:
        """Whether a span is part of a list in square brackets."""
        return any(
            other.kind == "list" and self.text[other.start] == "[" and _holds(other, mention) for other in self.mentions
        )


def _holds(other: Mention, mention: Mention) -> bool:
    return other is not mention and other.start <= mention.start and mention.end <= other.end


@lru_cache(maxsize=256)
def read(text: str, source: Source = "query") -> Text:
    """A text as values are copied from it; of a long one, such as what a tool printed, its first 4,000 characters."""
    text = text[:_LONGEST]
    found = mentions(text)
    return Text(text, tuple(found), tuple(map(tuple, enumerations(text, found))), source)
