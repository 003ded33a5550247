"""The `where` filter of a search, compiled to SQL so that it acts before the top k are cut.

Filtering after the cut returns too few: one matching row in a hundred is lost (txtai#915).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelworks.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition over the tables `documents` and `chunks`, with its bound parameters."""

    sql: str
    parameters: tuple[str | int, ...]


def compile_where(where: Mapping[str, object] | None) -> Filter | None:
    """Compile a filter; None where nothing is filtered.

    Keys: `document` and `media_type` (a name, or a pattern with `*` and `?`), `heading` (the same, matched against
    the chunk's heading path), `page` (a number that the chunk touches). A list means "any of these"; several keys
    must all hold. Raises ConfigError for an unknown key or a value of the wrong type.
    """
    if not where:
        return None
    conditions: list[str] = []
    parameters: list[str | int] = []
    for key, value in where.items():
        if key not in _COMPILERS:
            raise ConfigError(f"where: unknown key {key!r}; known keys are {', '.join(_COMPILERS)}")
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        alternatives = [_COMPILERS[key](key, single) for single in values]
        # An empty list allows nothing; SQLite has no empty disjunction.
        conditions.append(f"({' OR '.join(sql for sql, _ in alternatives) or 'FALSE'})")
        parameters += [parameter for _, bound in alternatives for parameter in bound]
    return Filter(" AND ".join(conditions), tuple(parameters))


def _text(column: str) -> Callable[[str, object], tuple[str, tuple[str, ...]]]:
    def compile_text(key: str, value: object) -> tuple[str, tuple[str, ...]]:
        if not isinstance(value, str):
            raise ConfigError(f"where: {key!r} wants a string, not {value!r}")
        if "*" in value or "?" in value:
            # GLOB also gives "[" a meaning; file names have brackets, so here it stands for itself.
            return f"{column} GLOB ?", (value.replace("[", "[[]"),)
        return f"{column} = ?", (value,)

    return compile_text


def _page(key: str, value: object) -> tuple[str, tuple[int, int]]:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ConfigError(f"where: {key!r} wants a page number, not {value!r}")
    return "chunks.first_page <= ? AND chunks.last_page >= ?", (value, value)


_COMPILERS: dict[str, Callable[[str, object], tuple[str, tuple[str | int, ...]]]] = {
    "document": _text("documents.name"),
    "media_type": _text("documents.media_type"),
    "heading": _text("chunks.heading"),
    "page": _page,
}
