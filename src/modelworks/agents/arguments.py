"""Arguments of tools: the JSON schema of a function, and values that are made to satisfy one.

A model's arguments are JSON that may be slightly wrong: "3" where 3 is meant, one thing where a list of it is. What can
be meant in one way only is repaired; the rest is an `ArgumentError`, whose message the model can act on.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, is_typeddict

import cattrs
import docstring_parser
import jsonschema
import referencing

from modelworks.core.errors import ConfigError, ModelworksError

_SIMPLE: Final[Mapping[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "format": "time"},
    Path: {"type": "string"},
    Any: {},
    object: {},
}
_LISTS: Final = (list, Sequence, tuple, set, frozenset)
_TOLD_ERRORS: Final = 3


class ArgumentError(ModelworksError):
    """Arguments of a call do not satisfy the tool's schema; the message says which, to the model."""


# --- from a function to a schema --------------------------------------------------------------------------------------


def described(function: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """A function's description and the JSON schema of its arguments.

    Descriptions come from the docstring (Google's, NumPy's or Sphinx's form) or from `Annotated[..., "text"]`. Raises
    `ConfigError`, naming the parameter, for one without a type, of a type that JSON cannot hold, or that has no name.
    """
    docstring = docstring_parser.parse(inspect.getdoc(function) or "")
    told = {each.arg_name: " ".join((each.description or "").split()) for each in docstring.params}
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigError(f"tool {_name(function)}: the type {error.name!r} in its signature is not known") from error
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        where = f"tool {_name(function)}: parameter {parameter.name!r}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"{where} cannot be given by its name")
        if parameter.name not in hints:
            raise ConfigError(f"{where} has no type: a schema is made of types")
        schema = _schema(hints[parameter.name], where)
        if said := told.get(parameter.name):
            schema.setdefault("description", said)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif (default := _json(parameter.default)) is not _NONE:
            schema["default"] = default
        properties[parameter.name] = schema
    parameters: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        parameters["required"] = required
    description = "\n\n".join(filter(None, (docstring.short_description, docstring.long_description)))
    return description, parameters


_NONE: Final = object()


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _json(value: Any) -> Any:
    """A default as JSON has it; `_NONE` for one that it has no form for."""
    if isinstance(value, enum.Enum):
        value = value.value
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return _NONE


def _schema(kind: Any, where: str) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return dict(_SIMPLE[kind])
    if origin is Annotated:
        texts = [each for each in inner[1:] if isinstance(each, str)]
        return _schema(inner[0], where) | ({"description": texts[0]} if texts else {})
    if origin is Literal:
        return _choice(list(inner))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choice([each.value for each in kind])
    if origin in (Union, types.UnionType):
        return _union([_schema(each, where) for each in inner])
    if origin in _LISTS or kind in _LISTS:
        return _list(origin or kind, inner, where)
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        if inner and inner[0] is not str:
            raise ConfigError(f"{where} is a dictionary with keys that are not str, which JSON does not have")
        return {"type": "object", "additionalProperties": _schema(inner[1], where) if inner else True}
    if dataclasses.is_dataclass(kind) or is_typeddict(kind):
        return _record(kind, where)
    raise ConfigError(f"{where} is of type {getattr(kind, '__name__', kind)}, which no JSON schema describes")


def _choice(values: list[Any]) -> dict[str, Any]:
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    kinds = {names.get(type(value)) for value in values}
    kind = kinds.pop() if len(kinds) == 1 else None
    return ({"type": kind} if kind else {}) | {"enum": values}


def _union(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = [schema.get("type") for schema in schemas]
    if len(schemas) == 2 and "null" in kinds and all(set(schema) == {"type"} for schema in schemas):
        return {"type": kinds}
    return {"anyOf": schemas}


def _list(origin: Any, inner: tuple[Any, ...], where: str) -> dict[str, Any]:
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        items = [_schema(each, where) for each in inner]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items), "maxItems": len(items)}
    schema: dict[str, Any] = {"type": "array"}
    if inner:
        schema["items"] = _schema(inner[0], where)
    if origin in (set, frozenset):
        schema["uniqueItems"] = True
    return schema


def _record(kind: Any, where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        required = [name for name in hints if name in kind.__required_keys__]
    else:
        missing = dataclasses.MISSING
        required = [
            field.name
            for field in dataclasses.fields(kind)
            if field.default is missing and field.default_factory is missing
        ]
    properties = {name: _schema(hint, f"{where}, field {name!r}") for name, hint in hints.items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


# --- from JSON to what the function takes -----------------------------------------------------------------------------


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (datetime, date, time):
        converter.register_structure_hook(kind, lambda text, as_kind: as_kind.fromisoformat(text))
    return converter


def structured(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with arguments as JSON has them: dataclasses, enums, dates and sets are made of them."""
    hints = typing.get_type_hints(function)
    plain = {str, int, float, bool, Any, object, type(None)}
    made = {name: hint for name, hint in hints.items() if name != "return" and hint not in plain}

    @wraps(function)
    def call(**arguments: Any) -> Any:
        for name, hint in made.items():
            if name in arguments:
                arguments[name] = _converter().structure(arguments[name], hint)
        return function(**arguments)

    return call


# --- checks and repairs -----------------------------------------------------------------------------------------------


def parsed(text: str) -> dict[str, Any]:
    """The object that a call's arguments are; raises `ArgumentError` for text that is none."""
    try:
        found = json.loads(text or "{}", parse_constant=_no_constant)
    except ValueError as error:
        raise ArgumentError(f"the arguments are not JSON: {error}") from error
    except RecursionError as error:
        raise ArgumentError("the arguments are nested too deeply") from error
    if isinstance(found, str):  # JSON within JSON, which some models write
        return parsed(found)
    if not isinstance(found, dict):
        raise ArgumentError(f"the arguments are {type(found).__name__}, expected an object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def checked(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that satisfy a schema, repaired where that can mean one thing only; a copy.

    Repaired are numbers and truth values written as text, whole numbers written as 3.0, text written as a number, one
    item in place of a list of them, JSON text in place of a list or an object, and null for what may be left out.
    Raises `ArgumentError` with what is wrong, in words for the model, and `ConfigError` for a schema that is none.
    """
    value = _repaired(dict(schema), dict(arguments))
    try:
        found = sorted(validator(schema).iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
    except jsonschema.exceptions.SchemaError as error:
        raise ConfigError(f"the tool's schema is invalid: {error.message}") from error
    except referencing.exceptions.Unresolvable as error:
        raise ConfigError(f"the tool's schema refers to {error.ref!r}, which is not in it") from error
    except RecursionError as error:
        raise ArgumentError("the arguments are nested too deeply") from error
    if found:
        said = "; ".join(_told(error) for error in found[:_TOLD_ERRORS])
        rest = f"; and {len(found) - _TOLD_ERRORS} more" if len(found) > _TOLD_ERRORS else ""
        raise ArgumentError(said + rest)
    return value


def validator(schema: Mapping[str, Any]) -> Any:
    """A validator of draft 2020-12 for a schema; nothing is fetched. Raises jsonschema's SchemaError for none."""
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    # jsonschema's own registry opens any URL that a `$ref` names, those of files and of this machine too.
    return kind(schema, registry=referencing.Registry())


def _told(error: jsonschema.ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path))
    said = error.message if len(error.message) <= 200 else f"{error.message[:200]}..."
    return f"{where}: {said}" if where else said


def _repaired(schema: Any, value: Any) -> Any:
    if not isinstance(schema, Mapping):
        return value
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if isinstance(value, Mapping) and ("object" in kinds or not kinds):
        return _repaired_object(schema, value)
    if isinstance(value, list) and ("array" in kinds or not kinds):
        return [_repaired(schema.get("items"), item) for item in value]
    if not kinds or _is_any(value, kinds):
        return value
    if len(kinds) > 1:
        return value  # it could mean more than one thing
    return _as_kind(kinds[0], schema, value)


def _repaired_object(schema: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return dict(value)
    required = schema.get("required", ())
    made = {}
    for name, item in value.items():
        inner = properties.get(name)
        if item is None and name in properties and name not in required and not _takes_null(inner):
            continue
        made[name] = _repaired(inner, item)
    return made


def _takes_null(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or "type" not in schema:
        return True
    return "null" in schema["type"] if isinstance(schema["type"], list) else schema["type"] == "null"


def _is_any(value: Any, kinds: Sequence[str]) -> bool:
    tests: Mapping[str, bool] = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "array": isinstance(value, list),
        "object": isinstance(value, Mapping),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
    }
    return any(tests.get(kind, False) for kind in kinds)


def _as_kind(kind: str, schema: Mapping[str, Any], value: Any) -> Any:
    if kind == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            inner = json.loads(value.strip().lower() if kind == "boolean" else value, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            inner = _NONE
        if inner is not _NONE and _is_any(inner, (kind,)):
            return _repaired(schema, inner)
    if kind == "array" and not isinstance(value, list | Mapping) and value is not None:
        return [_repaired(schema.get("items"), value)]
    return value
