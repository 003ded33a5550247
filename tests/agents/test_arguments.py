from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, TypedDict

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.arguments import ArgumentError, checked, described, parsed, structured
from modelworks.core.errors import ConfigError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


class Person(TypedDict):
    name: str
    age: int


def everything(
    text: str,
    count: Annotated[int, "How many."],
    colour: Colour,
    at: Point,
    who: Person,
    day: date,
    size: Literal["small", "large"] = "small",
    tags: list[str] | None = None,
    scale: float | None = None,
    pair: tuple[int, str] = (1, "a"),
    extra: dict[str, int] = {},  # noqa: B006 - as users write it
) -> str:
    """Do everything.

    It takes a while.

    Parameters
    ----------
    text
        What is said,
        over two lines.
    """
    return f"{text} {count} {colour} {at} {who['name']} {day.year} {size} {pair}"


def test_types_become_a_schema() -> None:
    description, schema = described(everything)
    assert description == "Do everything.\n\nIt takes a while."
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["required"] == ["text", "count", "colour", "at", "who", "day"]
    properties = schema["properties"]
    assert properties["text"] == {"type": "string", "description": "What is said, over two lines."}
    assert properties["count"] == {"type": "integer", "description": "How many."}
    assert properties["colour"] == {"type": "string", "enum": ["red", "blue"]}
    assert properties["at"]["required"] == ["x"]
    assert properties["who"]["required"] == ["name", "age"]
    assert properties["day"] == {"type": "string", "format": "date"}
    assert properties["size"] == {"type": "string", "enum": ["small", "large"], "default": "small"}
    assert properties["scale"] == {"type": ["number", "null"], "default": None}
    assert properties["tags"]["anyOf"] == [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]
    assert properties["pair"]["default"] == [1, "a"]
    assert properties["extra"] == {"type": "object", "additionalProperties": {"type": "integer"}, "default": {}}


def test_a_function_gets_what_its_types_say() -> None:
    arguments = {
        "text": "hi",
        "count": 2,
        "colour": "red",
        "at": {"x": 1.5},
        "who": {"name": "Ada", "age": 3},
        "day": "2026-05-01",
    }
    said = structured(everything)(**checked(described(everything)[1], arguments))
    assert said == "hi 2 Colour.RED Point(x=1.5, y=0.0) Ada 2026 small (1, 'a')"


def _variadic(*args: int) -> None: ...
def _untyped(a) -> None: ...  # type: ignore[no-untyped-def]
def _exotic(a: complex) -> None: ...
def _keys(a: dict[int, str]) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_variadic, "'args' cannot be given by its name"),
        (_untyped, "'a' has no type"),
        (_exotic, "of type complex"),
        (_keys, "keys that are not str"),
    ],
)
def test_a_signature_that_no_schema_describes_is_refused_by_its_parameter(
    function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        described(function)


SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "ok": {"type": "boolean"},
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "opt": {"type": "string"},
        "both": {"type": ["integer", "string"]},
    },
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("given_", "made"),
    [
        ({"n": "3"}, {"n": 3}),
        ({"n": 3.0}, {"n": 3}),
        ({"n": 1, "x": "2.5"}, {"n": 1, "x": 2.5}),
        ({"n": 1, "ok": "True"}, {"n": 1, "ok": True}),
        ({"n": 1, "name": 12}, {"n": 1, "name": "12"}),
        ({"n": 1, "tags": "a"}, {"n": 1, "tags": ["a"]}),
        ({"n": 1, "tags": '["a", "b"]'}, {"n": 1, "tags": ["a", "b"]}),
        ({"n": 1, "tags": [1, "b"]}, {"n": 1, "tags": ["1", "b"]}),
        ({"n": 1, "opt": None}, {"n": 1}),
        ({"n": 1, "both": "5"}, {"n": 1, "both": "5"}),
    ],
)
def test_what_can_mean_one_thing_only_is_repaired(given_: dict[str, Any], made: dict[str, Any]) -> None:
    found = checked(SCHEMA, given_)
    assert found == made
    assert [type(value) for value in found.values()] == [type(value) for value in made.values()]


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "'n' is a required property"),
        ({"n": 3.5}, "n: 3.5 is not of type 'integer'"),
        ({"n": "three"}, "n: 'three' is not of type 'integer'"),
        ({"n": None}, "n: None is not of type"),
        ({"n": 1, "m": 2}, "'m' was unexpected"),
        ({"n": 1, "ok": "maybe"}, "ok: 'maybe' is not of type 'boolean'"),
        ({"n": "NaN"}, "is not of type"),
    ],
)
def test_the_rest_is_an_error_that_says_which(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        checked(SCHEMA, given_)


@pytest.mark.parametrize("text", ['{"a": ', "no", "[1]", "3", '{"a": NaN}', "[" * 100_000])
def test_text_that_is_no_object_is_an_error_of_arguments(text: str) -> None:
    with pytest.raises(ArgumentError):
        parsed(text)


def test_json_within_json_is_read() -> None:
    assert parsed('"{\\"a\\": 1}"') == {"a": 1}
    assert parsed("") == {}


def test_one_odd_schema_is_an_error_of_configuration() -> None:
    with pytest.raises(ConfigError, match="schema is invalid"):
        checked({"type": "object", "properties": {"a": {"type": "nonsense"}}}, {"a": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], "z"]), JSON))  # type: ignore[misc]
def test_whatever_comes_out_satisfies_the_schema(arguments: dict[str, Any]) -> None:
    before = repr(arguments)
    try:
        found = checked(SCHEMA, arguments)
    except ArgumentError:
        found = None
    assert repr(arguments) == before
    if found is not None:
        jsonschema.validate(found, SCHEMA)
        assert checked(SCHEMA, found) == found


@pytest.mark.parametrize("place", ["file:///etc/passwd", "http://127.0.0.1:9/schema.json", "other.json"])
def test_a_reference_to_another_place_is_not_followed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """jsonschema opens such a reference by itself, with urllib, where it is given no registry."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ConfigError, match="which is not in it"):
        checked({"type": "object", "properties": {"a": {"$ref": place}}}, {"a": 1})
