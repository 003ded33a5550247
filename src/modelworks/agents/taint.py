"""Where the arguments of a call come from: what the user said, or what somebody else wrote.

What tools and documents return is data: whoever wrote it must not decide what is done. A value is the user's where it
stands in what the user wrote, or is one that the tool's schema names (an enum's, the default); a short one or a number
only where nobody else wrote it as well. Once a run has read content of others, every other value may derive from it: it
stands in it, or the model wrote it after reading it. A call without arguments that the model only came to after reading
is no better. (The model's own inferences cannot be tracked from outside; that all values count as tainted then
is what makes this safe, and what it costs is questions.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelworks.agents.steps import Observation
from modelworks.agents.tool import Tool, canonical

_TELLING: Final = 6  # characters from which on the same value twice is hardly a coincidence


@dataclass(frozen=True, slots=True)
class Tainted:
    """A value that may derive from content of others."""

    path: str
    """Of the argument, such as `to` or `rows.0.name`; "" for a call that takes none."""
    value: str
    origins: frozenset[str]
    """Whose content it may derive from."""
    found: bool
    """Whether it stands in that content; otherwise the model wrote it after reading."""

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"path": self.path, "value": self.value, "origins": sorted(self.origins), "found": self.found}


class Taint:
    """What one run has been told by the user, and what it has read of others."""

    def __init__(self) -> None:
        self._trusted: list[str] = []
        self._read: list[tuple[str, frozenset[str]]] = []

    @property
    def clean(self) -> bool:
        """Whether nothing of others was read yet."""
        return not self._read

    @property
    def origins(self) -> frozenset[str]:
        """Whose content was read."""
        return frozenset[str]().union(*(origins for _, origins in self._read))

    def copy(self) -> Taint:
        """The same for a part of the run, which adds to its own alone."""
        made = Taint()
        made._trusted, made._read = list(self._trusted), list(self._read)
        return made

    def trust(self, text: str) -> None:
        """Add what the user said."""
        self._trusted.append(_words(text))

    def observe(self, tool: Tool, arguments: Mapping[str, Any], observation: Observation) -> frozenset[str]:
        """Add what a call returned, and tell whose word it is: nobody's for a trusted tool that was asked cleanly."""
        origins = observation.origins
        if not origins and tool.trusted:
            origins = frozenset[str]().union(*(each.origins for each in self.of(tool, arguments)))
            if not origins:
                self._trusted.append(_words(observation.content))
                return origins
        origins = origins or frozenset({tool.source or tool.name})
        if observation.content:
            self._read.append((_words(observation.content), origins))
        return origins

    def read(self, content: str, origins: frozenset[str]) -> None:
        """Add content of others that came another way, such as from memory."""
        self._read.append((_words(content), origins))

    def of(self, tool: Tool, arguments: Mapping[str, Any]) -> tuple[Tainted, ...]:
        """The values of a call that may derive from content of others."""
        if self.clean:
            return ()
        everyone = self.origins
        leaves = list(_leaves(arguments, tool.parameters))
        if not leaves:
            return (Tainted("", "", everyone, False),)
        tainted = []
        for path, value, named in leaves:
            words = _words(value)
            origins = frozenset[str]().union(*(origins for text, origins in self._read if _within(words, text)))
            is_users = any(_within(words, text) for text in self._trusted)
            if named or (is_users and (_is_telling(words) or not origins)):
                continue
            tainted.append(Tainted(path, value, origins or everyone, bool(origins)))
        return tuple(tainted)


def _words(text: str) -> str:
    """Text without what makes no difference: case, and how much space there is."""
    return " ".join(text.casefold().split())


def _within(words: str, text: str) -> bool:
    """Whether words stand in a text, and not as a part of longer ones."""
    if not words:
        return False
    at = text.find(words)
    while at >= 0:
        end = at + len(words)
        before = at > 0 and _is_word(text[at - 1]) and _is_word(words[0])
        after = end < len(text) and _is_word(text[end]) and _is_word(words[-1])
        if not before and not after:
            return True
        at = text.find(words, at + 1)
    return False


def _is_telling(words: str) -> bool:
    """Whether a value is long enough to be known by: the 13 of a file's number may be that of the user's June 13."""
    return len(words) >= _TELLING and not words.replace(".", "").replace(",", "").isdigit()


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _leaves(value: Any, schema: Any, path: str = "") -> Iterator[tuple[str, str, bool]]:
    """Path, text, and whether the schema itself names the value, of all that is no list or object."""
    schema = schema if isinstance(schema, Mapping) else {}
    named = value in schema.get("enum", ()) or ("default" in schema and value == schema["default"])
    if isinstance(value, Mapping):
        properties = schema.get("properties", {})
        for key, item in value.items():
            inner = f"{path}.{key}" if path else str(key)
            if key not in properties:
                yield f"{inner} (its name)", str(key), False
            yield from _leaves(item, properties.get(key, schema.get("additionalProperties")), inner)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, schema.get("items"), f"{path}.{index}" if path else str(index))
    else:
        yield path, value if isinstance(value, str) else canonical(value), named or value is None
