"""What the server accepts, as JSON Schema: the functions that read requests, run on stand-ins that take notes.

So the description is made from the same definitions as the checks, and cannot say anything else. What depends on
several fields, or on what the server has, is told in words (`Fields.expect`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar, cast

from modelworks.serve.fields import Fields, Item, Read

Value = TypeVar("Value")
Schema: TypeAlias = dict[str, Any]

_ABSENT: Final = None
"""Among the options of a choice: that the field is not there."""


def describe(read: Read[Any]) -> Schema:
    """The JSON schema (draft 2020-12) of the objects that a function takes."""
    return _described(read)[0]


def _described(read: Read[Item]) -> tuple[Schema, Item]:
    """An object's schema, and what its function makes of it in the end.

    Where a field chooses what others there are, the function is run once for each choice.
    """
    ways: list[Shape] = []
    untried: list[Mapping[str, str]] = [{}]
    while untried:
        way = Shape(untried.pop(), untried)
        found = read(way)
        ways.append(way)
    for name in dict.fromkeys(name for way in ways for name in way.options):
        ways = _merged(ways, name)
    schemas = [way.schema() for way in ways]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}, found


def _merged(ways: Sequence[Shape], name: str) -> list[Shape]:
    """Ways that differ in nothing but what one field chooses, as one."""
    kept: dict[str, Shape] = {}
    for way in ways:
        options = way.options.pop(name, ())
        same = kept.setdefault(f"{bool(options)}{json.dumps([way.schema(), way.options], sort_keys=True)}", way)
        same.merging = [*same.merging, *options]
    for way in kept.values():
        if way.merging:
            way.options[name] = way.merging
            way.merging = []
    return list(kept.values())


class Shape(Fields):
    """Stands in for an object's fields: it answers as one would that has nothing optional, and notes what is asked.

    `chosen` are the options to take by field; those of other choices are added to `untried`.
    """

    def __init__(self, chosen: Mapping[str, str], untried: list[Mapping[str, str]]) -> None:
        super().__init__({})
        self.options: dict[str, list[str | None]] = {}
        """What a field that is a choice may be."""
        self.merging: list[str | None] = []
        self._chosen = dict(chosen)
        self._untried = untried
        self._kinds: dict[str, Schema] = {}
        self._needed: dict[str, None] = {}
        self._said: dict[str, list[str]] = {}
        self._open = True

    def schema(self) -> Schema:
        kinds = dict(self._kinds)
        needed = dict(self._needed)
        for name, options in self.options.items():
            if name not in self._kinds:  # not a field, but which of several there is
                continue
            kinds[name] = {"enum": [each for each in options if each is not _ABSENT]}
            if _ABSENT not in options:
                needed[name] = None
        properties = {name: kind if name in needed else _or_null(kind) for name, kind in kinds.items()}
        for name, said in self._said.items():
            properties[name] = properties[name] | {"description": "; ".join(dict.fromkeys(said))}
        schema: Schema = {"type": "object", "properties": properties}
        if needed:
            schema["required"] = list(needed)
        if not self._open:
            schema["additionalProperties"] = {"type": "null"}  # a field that is null is one that is absent
        return schema

    def _note(self, name: str, kind: Schema) -> None:
        self._kinds[name] = kind

    def _choose(self, name: str, options: Sequence[str], default: str) -> str:
        if name not in self._chosen:
            # Each of the others is a way of its own, from here on as this one is.
            others = [option for option in options if option != default]
            first = default if default in options else others.pop(0)
            self._untried += [self._chosen | {name: option} for option in others]
            self._chosen[name] = first
        option = self._chosen[name]
        self.options[name] = [option, _ABSENT] if option == default else [option]
        return option

    # What says something about a field

    def need(self, name: str) -> Any:
        self._kinds.setdefault(name, {})
        self._needed[name] = None
        return {}

    def need_any(self, *names: str) -> None:
        self.need(self._choose(" or ".join(names), names, ""))

    def expect(self, holds: bool, name: str, expected: str, *, code: str = "") -> None:
        self._said.setdefault(name, []).append(f"Expected: {expected}")

    def made(self, name: str, make: Callable[[], Value], *, code: str = "") -> Value:
        self._said.setdefault(name, []).append("Checked in full; what is invalid is refused")
        return cast(Value, None)

    def ignore(self, *names: str) -> None:
        for name in names:
            self._note(name, {"description": "Has no effect here"})

    def refuse(self, name: str, reason: str) -> None:
        self._note(name, {"enum": [False, []], "description": f"Not supported: {reason}"})

    def close(self) -> None:
        self._open = False

    # Kinds

    def text(
        self, name: str, default: str | None = None, *, most: int | None = None, pattern: str | None = None
    ) -> str | None:
        kind: Schema = {"type": "string"}
        if most is not None:
            kind["maxLength"] = most
        if pattern is not None:
            kind["pattern"] = f"^{pattern}$"
        self._note(name, kind)
        return default

    def needed_text(self, name: str, *, most: int | None = None, pattern: str | None = None) -> str:
        self.need(name)
        self.text(name, most=most, pattern=pattern)
        return ""

    def choice(self, name: str, options: Sequence[str], default: str, *, code: str = "") -> str:
        self._note(name, {})
        return self._choose(name, options, default)

    def choices(self, name: str, options: Sequence[str]) -> list[str]:
        self._note(name, {"type": "array", "items": {"enum": [*options]}})
        return []

    def choice_or_object(self, name: str, options: Sequence[str], read: Read[Item]) -> str | Item | None:
        self._note(name, {"anyOf": [{"enum": [*options]}, describe(read)]})
        return None

    def flag(self, name: str, default: bool = False) -> bool:
        self._note(name, {"type": "boolean"})
        return default

    def integer(self, name: str, low: int, high: int) -> int | None:
        self._note(name, {"type": "integer", "minimum": low, "maximum": high})
        return None

    def number(self, name: str, low: float, high: float) -> float | None:
        self._note(name, {"type": "number", "minimum": low, "maximum": high})
        return None

    def numbers(self, name: str, pattern: str, low: float, high: float) -> Mapping[str, float]:
        number = {"type": "number", "minimum": low, "maximum": high}
        self._note(
            name, {"type": "object", "patternProperties": {f"^{pattern}$": number}, "additionalProperties": False}
        )
        return {}

    def texts(self, name: str, most: int, least: int = 0) -> tuple[str, ...]:
        text = {"type": "string", "minLength": 1}
        self._note(name, {"anyOf": [text, _list(text, least, most)]})
        return ()

    def texts_or_ids(self, name: str, most: int) -> list[str | list[int]]:
        self.need(name)
        text, ids = {"type": "string"}, _list({"type": "integer"}, 1)
        self._note(name, {"anyOf": [text, ids, _list({"anyOf": [text, ids]}, 1, most)]})
        return []

    def object(self, name: str, read: Read[Item]) -> Item | None:
        kind, found = _described(read)
        self._note(name, kind)
        return found

    def needed_object(self, name: str, read: Read[Item]) -> Item:
        self.need(name)
        found = self.object(name, read)
        return cast(Item, found)

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        self._note(name, {"type": "object"})
        return None

    def objects(self, name: str, read: Read[Item], *, least: int = 0, most: int | None = None) -> list[Item]:
        self._note(name, _list(describe(read), least, most))
        return []

    def text_or_objects(self, name: str, read: Read[Item], *, least: int = 0) -> str | list[Item] | None:
        self._note(name, {"anyOf": [{"type": "string"}, _list(describe(read), least)]})
        return None


def _list(item: Schema, least: int = 0, most: int | None = None) -> Schema:
    found: Schema = {"type": "array", "items": item}
    if least:
        found["minItems"] = least
    if most is not None:
        found["maxItems"] = most
    return found


def _or_null(kind: Schema) -> Schema:
    """A kind of which null is one as well, since that is a field that is absent."""
    if not kind.keys() - {"description"}:
        return kind
    if "enum" in kind:
        return kind | {"enum": [*kind["enum"], None]}
    if "anyOf" in kind:
        return kind | {"anyOf": [*kind["anyOf"], {"type": "null"}]}
    return kind | {"type": [kind["type"], "null"]}
