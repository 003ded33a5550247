"""Reading JSON that strangers send: each field is asked for by name and kind; one that nobody asks for is an error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from modelworks.core.errors import ModelworksError
from modelworks.serve.errors import ApiError

Item = TypeVar("Item")
Value = TypeVar("Value")
Read: TypeAlias = "Callable[[Fields], Item]"
"""How an object is read: it asks for the fields one by one, and closes them."""

_SHOWN: Final = 60  # characters of a wrong value that an error repeats
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(body: bytes) -> Fields:
    """The JSON object of a request's body. Raises `ApiError` (400) for anything else."""
    if not body:
        raise ApiError(400, "the request has no body; send a JSON object", code="invalid_json")
    try:
        value = json.loads(body.decode(), parse_constant=_no_number)
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ApiError(400, f"the body is not Unicode: {error.reason}", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    return Fields(value)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


class Fields:
    """One JSON object; its fields are read by the methods, and `close` refuses those that were not.

    A field that is null is one that is absent. Every error is an `ApiError` (400) whose `param` is the field's path.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        self.path = path
        if not isinstance(value, dict):
            raise ApiError(
                400,
                f"{path or 'the body'}: expected an object, got {shown(value)}",
                param=path or None,
                code="invalid_type",
            )
        self._values: dict[str, Any] = value
        self._left = dict.fromkeys(name for name in value if value[name] is not None)

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def wrong(self, name: str, expected: str, *, code: str = "invalid_type") -> ApiError:
        """The error for a field whose value is not what it should be."""
        path = self.at(name)
        return ApiError(400, f"{path}: expected {expected}, got {shown(self._values[name])}", param=path, code=code)

    def get(self, name: str) -> Any:
        """A field as it is; None where it is absent."""
        self._left.pop(name, None)
        return self._values.get(name)

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            path = self.at(name)
            raise ApiError(400, f"{path} is missing", param=path, code="missing_required_parameter")
        return value

    def need_any(self, *names: str) -> None:
        """At least one of several fields."""
        if all(self._values.get(name) is None for name in names):
            self.need(names[0])

    def expect(self, holds: bool, name: str, expected: str, *, code: str = "invalid_value") -> None:
        """Refuse a field of the right kind that does not go with the others, or with what the server has."""
        if not holds:
            raise self.wrong(name, expected, code=code)

    def made(self, name: str, make: Callable[[], Value], *, code: str = "invalid_value") -> Value:
        """What a lower layer makes of a field; where it refuses, the error names the field."""
        try:
            return make()
        except ModelworksError as error:
            path = self.at(name)
            raise ApiError(400, f"{path}: {error}", param=path, code=code) from error

    def ignore(self, *names: str) -> None:
        """Fields that clients send and that change nothing here."""
        for name in names:
            self._left.pop(name, None)

    def refuse(self, name: str, reason: str) -> None:
        """A field that the API has and this server does not: an error where it asks for anything."""
        value = self.get(name)
        if value is not None and value is not False and value != []:
            path = self.at(name)
            raise ApiError(400, f"{path} is not supported: {reason}", param=path, code="unsupported_parameter")

    def close(self) -> None:
        """Refuse fields that nothing has asked for."""
        for name in self._left:
            path = self.at(shown(name, quoted=False))
            raise ApiError(400, f"unknown field {path}", param=path, code="unknown_parameter")

    # Kinds. `shape.Shape` has the JSON schema of each.

    def text(
        self, name: str, default: str | None = None, *, most: int | None = None, pattern: str | None = None
    ) -> str | None:
        """A string, of at most `most` characters, that `pattern` matches whole."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        if most is not None and len(value) > most:
            raise self.wrong(name, f"at most {most} characters", code="invalid_value")
        if pattern is not None and not re.fullmatch(pattern, value):
            raise self.wrong(name, f"a string that matches {pattern}", code="invalid_value")
        return value

    def needed_text(self, name: str, *, most: int | None = None, pattern: str | None = None) -> str:
        self.need(name)
        value = self.text(name, most=most, pattern=pattern)
        assert value is not None
        return value

    def choice(self, name: str, options: Sequence[str], default: str, *, code: str = "invalid_value") -> str:
        value = self.get(name)
        if value is None:
            return default
        if value not in options:
            raise self.wrong(name, f"one of {', '.join(options)}", code=code)
        return str(value)

    def needed_choice(self, name: str, options: Sequence[str], *, code: str = "invalid_value") -> str:
        self.need(name)
        return self.choice(name, options, "", code=code)

    def choices(self, name: str, options: Sequence[str]) -> list[str]:
        """A list of options."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or any(each not in options for each in value):
            raise self.wrong(name, f"a list of {', '.join(options)}", code="unsupported_parameter")
        return value

    def choice_or_object(self, name: str, options: Sequence[str], read: Read[Item]) -> str | Item | None:
        value = self.get(name)
        if value is None or value in options:
            return value
        if not isinstance(value, dict):
            raise self.wrong(name, f"one of {', '.join(options)} or an object")
        return read(Fields(value, self.at(name)))

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return default if value is None else value

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        found = _as_integer(value)
        if found is None:
            raise self.wrong(name, "an integer")
        if not low <= found <= high:
            raise self.wrong(name, f"an integer from {low} to {high}", code="invalid_value")
        return found

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        if not is_number(value):
            raise self.wrong(name, "a number")
        if not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g}", code="invalid_value")
        return float(value)

    def numbers(self, name: str, pattern: str, low: float, high: float) -> Mapping[str, float]:
        """An object of numbers, whose names `pattern` matches whole."""
        found = self.mapping(name) or {}
        for each, value in found.items():
            if not re.fullmatch(pattern, each) or not is_number(value) or not low <= value <= high:
                expected = f"names that match {pattern}, each with a number from {low:g} to {high:g}"
                raise self.wrong(name, expected, code="invalid_value")
        return found

    def texts(self, name: str, most: int, least: int = 0) -> tuple[str, ...]:
        """A string, or `least` to `most` of them; none of them empty."""
        value = self.get(name)
        found = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(text, str) and text for text in found):
            raise self.wrong(name, "a string or a list of strings, none of them empty")
        if value is not None and len(found) < least:
            raise self.wrong(name, f"at least {least} of them", code="invalid_value")
        if len(found) > most:
            raise self.wrong(name, f"at most {most} strings", code="invalid_value")
        return tuple(found)

    def texts_or_ids(self, name: str, most: int) -> list[str | list[int]]:
        """A string, a list of token ids, or a list of 1 to `most` of either."""
        value = self.need(name)
        one = _text_or_ids(value)
        found = [one] if one is not None else [_text_or_ids(item) for item in value] if isinstance(value, list) else []
        read = [item for item in found if item is not None]
        if not read or len(read) < len(found):
            raise self.wrong(name, "a string, a list of token ids, or a list of either")
        if len(read) > most:
            raise self.wrong(name, f"at most {most} of them", code="invalid_value")
        return read

    def object(self, name: str, read: Read[Item]) -> Item | None:
        value = self.get(name)
        return None if value is None else read(Fields(value, self.at(name)))

    def needed_object(self, name: str, read: Read[Item]) -> Item:
        return read(Fields(self.need(name), self.at(name)))

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        """An object whose fields are the client's own business."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value

    def needed_mapping(self, name: str) -> Mapping[str, Any]:
        self.need(name)
        return self.mapping(name) or {}

    def objects(self, name: str, read: Read[Item], *, least: int = 0, most: int | None = None) -> list[Item]:
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        if len(value) < least:
            raise self.wrong(name, f"at least {least} of them", code="invalid_value")
        if most is not None and len(value) > most:
            raise self.wrong(name, f"at most {most} items", code="invalid_value")
        return [read(Fields(item, f"{self.at(name)}[{index}]")) for index, item in enumerate(value)]

    def text_or_objects(self, name: str, read: Read[Item], *, least: int = 0) -> str | list[Item] | None:
        value = self.get(name)
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise self.wrong(name, "a string or a list of objects")
        return self.objects(name, read, least=least)


def _as_integer(value: Any) -> int | None:
    """A JSON value as an integer, which 1.0 is as well (JSON Schema, section 4.2.3); None for any other."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _text_or_ids(value: Any) -> str | list[int] | None:
    """A string or a list of at least one integer; None for what is neither."""
    if isinstance(value, str) or not isinstance(value, list) or not value:
        return value if isinstance(value, str) else None
    ids = [found for each in value if (found := _as_integer(each)) is not None]
    return ids if len(ids) == len(value) else None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def shown(value: Any, *, quoted: bool = True) -> str:
    """The beginning of a value, for an error."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a huge number"
    text = json.dumps(value[: _SHOWN + 1] if isinstance(value, str) else value)
    text = text if quoted or not isinstance(value, str) else text[1:-1]
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
