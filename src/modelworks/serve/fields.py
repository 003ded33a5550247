"""Reading JSON that strangers send: each field is asked for by name and kind; one that nobody asks for is an error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

from modelworks.serve.errors import ApiError

Item = TypeVar("Item")

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

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

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

    # Kinds

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a string")
        return default if value is None else value

    def needed_text(self, name: str) -> str:
        self.need(name)
        value = self.text(name)
        assert value is not None
        return value

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        value = self.get(name)
        if value is None:
            return default
        if value not in options:
            raise self.wrong(name, f"one of {', '.join(options)}", code="invalid_value")
        return str(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return default if value is None else value

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "an integer")
        if not low <= value <= high:
            raise self.wrong(name, f"an integer from {low} to {high}", code="invalid_value")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        if not is_number(value):
            raise self.wrong(name, "a number")
        if not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g}", code="invalid_value")
        return float(value)

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A string, or up to `most` of them; none of them empty."""
        value = self.get(name)
        found = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(text, str) and text for text in found):
            raise self.wrong(name, "a string or a list of strings, none of them empty")
        if len(found) > most:
            raise self.wrong(name, f"at most {most} strings", code="invalid_value")
        return tuple(found)

    def object(self, name: str) -> Fields | None:
        value = self.get(name)
        return None if value is None else Fields(value, self.at(name))

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        """An object whose fields are the client's own business."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value

    def items(self, name: str, read: Callable[[Any, str], Item], *, most: int | None = None) -> list[Item]:
        """A list, each item read by `read(value, path)`."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        if most is not None and len(value) > most:
            raise self.wrong(name, f"at most {most} items", code="invalid_value")
        return [read(item, f"{self.at(name)}[{index}]") for index, item in enumerate(value)]


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
