"""Recipes: frozen dataclasses beside their owner, read from TOML that states only what differs from their defaults.

    values = read_values(Path("recipes/sft.toml"), ["optim.lr=1e-5"])
    recipe = resolve(SFTRecipe, values)

A key that no field has, or a value of another type than its field, is a ConfigError that names the path to it. Fields
that may be None default to None, since TOML has no such value: `to_toml` leaves them out.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs
import tomli_w
from cattrs.errors import AttributeValidationNote, BaseValidationError, ForbiddenExtraKeysError, IterableValidationNote

from modelworks.core.errors import ConfigError

Recipe = TypeVar("Recipe")


def read_values(path: Path | None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """What a TOML file says, and over it `overrides` such as `optim.lr=1e-5`, whose values are TOML or plain text.

    Raises ConfigError for a file that cannot be read or is no TOML, and for an override of another form.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:  # no TOML, or not UTF-8
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        name, equals, text = override.partition("=")
        *tables, key = name.strip().split(".")
        if not equals or not all((*tables, key)):
            raise ConfigError(f"{override!r} is no override; write one as optim.lr=1e-5")
        table = values
        for outer in tables:
            table = table.setdefault(outer, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{override!r}: {outer} is a value, not a table")
        table[key] = _value(text)
    return values


def resolve(kind: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    """The recipe of that dataclass with `values` over its defaults.

    Raises ConfigError that names, for every fault, the path to it: `optim.learning_rat: unknown; did you mean ...?`.
    """
    try:
        return _converter.structure(values, kind)
    except (BaseValidationError, ForbiddenExtraKeysError, ConfigError) as error:
        raise ConfigError("; ".join(_faults(error, ""))) from None


def as_dict(recipe: Any) -> dict[str, Any]:
    """Every value of a recipe, as JSON has them; `resolve` reads it back equal."""
    return _converter.unstructure(recipe)


def to_toml(recipe: Any) -> str:
    """A recipe as TOML, every value stated; `read_values` and `resolve` read it back equal.

    Raises ValueError for a recipe class with a field that is None now but not by default.
    """
    return tomli_w.dumps(_without_none(recipe, as_dict(recipe)))


def differences(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The paths at which two recipes, as `as_dict` gives them, differ, with both values."""
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{path}{key}.")
        elif a != b:
            yield f"{path}{key}", a, b


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _without_none(recipe: Any, values: dict[str, Any]) -> dict[str, Any]:
    stated: dict[str, Any] = {}
    for item in fields(recipe):
        value = getattr(recipe, item.name)
        if value is None:
            if item.default is not None:
                raise ValueError(f"{type(recipe).__name__}.{item.name} is None, which TOML cannot say")
            continue
        written = values[item.name]
        stated[item.name] = _without_none(value, written) if is_dataclass(value) else written
    return stated


def _exactly(kind: type, *also: type, name: str) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if type(value) not in (kind, *also):
            raise ConfigError(f"must be {name}, got {value!r}")
        return kind(value)

    return structure


def _literal(value: Any, kind: Any) -> Any:
    for choice in get_args(kind):
        if type(value) is type(choice) and value == choice:
            return value
    near = difflib.get_close_matches(str(value), [str(choice) for choice in get_args(kind)], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}{hint}")


def _tuple(value: Any, kind: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"must be a list, got {value!r}")
    item: Any = list[get_args(kind)[0]]  # type: ignore[misc]
    return tuple(_converter.structure(list(value), item))


def _mapping(value: Any, kind: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be a table, got {value!r}")
    inner = get_args(kind)[1]
    return {key: item if inner is Any else _converter.structure(item, inner) for key, item in value.items()}


def _is_a(origins: tuple[Any, ...], kind: Any) -> bool:
    return get_origin(kind) in origins


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
    # cattrs would take int("3"), bool("no") and tuple("abc").
    converter.register_structure_hook(bool, _exactly(bool, name="true or false"))
    converter.register_structure_hook(int, _exactly(int, name="a whole number"))
    converter.register_structure_hook(float, _exactly(float, int, name="a number"))
    converter.register_structure_hook(str, _exactly(str, name="a text"))
    for origins, structure in (((Literal,), _literal), ((tuple,), _tuple), ((dict, Mapping), _mapping)):
        converter.register_structure_hook_func(partial(_is_a, origins), structure)

    @converter.register_structure_hook_factory(is_dataclass)
    def table(kind: type) -> Any:
        structure: Any = cattrs.gen.make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

        def checked(value: Any, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ConfigError(f"must be a table, got {value!r}")
            return structure(value, kind)

        return checked

    return converter


_converter = _make_converter()


def _faults(error: BaseException, path: str) -> Iterator[str]:
    """Every fault in what cattrs raised, with the path to it."""
    if isinstance(error, ForbiddenExtraKeysError):
        names = [item.name for item in fields(error.cl)]
        for key in sorted(error.extra_fields):
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}"
            yield f"{path}{key}: unknown; {hint}"
    elif isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            step = ""
            for note in getattr(inner, "__notes__", ()):
                if isinstance(note, AttributeValidationNote):
                    step = f"{note.name}."
                elif isinstance(note, IterableValidationNote):
                    step = f"{note.index}."
            if isinstance(inner, KeyError):
                yield f"{path}{step.rstrip('.')}: missing"
            else:
                yield from _faults(inner, path + step)
    else:
        where = path.rstrip(".")
        yield f"{where}: {error}" if where else str(error)
