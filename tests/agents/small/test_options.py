"""What an argument may be, by code alone: the fittest option, its type and its source."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.agents.small.options import default_of, options
from modelworks.agents.small.texts import read


def best(name: str, schema: dict[str, Any], text: str) -> Any:
    found = options(name, schema, read(text))
    return found[0].value if found else None


NUMBER = {"type": "number"}
TRIANGLE = "a triangle with a base of 10 units and height of 5 units"


@pytest.mark.parametrize(
    ("name", "schema", "text", "value"),
    [
        ("base", {"type": "integer"}, TRIANGLE, 10),
        ("height", {"type": "integer"}, TRIANGLE, 5),
        ("height", NUMBER, TRIANGLE, 5.0),
        ("rate", NUMBER, "at a rate of 5%", 0.05),
        ("share", {"type": "integer", "description": "in percent"}, "a share of 5%", 5),
        ("distance", {**NUMBER, "description": "in meters"}, "a distance of 3 km", 3000.0),
        ("hour", {"type": "integer", "description": "closing hour"}, "open until 11 PM", 23),
        ("unit", {"type": "string", "enum": ["celsius", "fahrenheit"]}, "how warm in Fahrenheit?", "fahrenheit"),
        ("method", {"type": "string", "description": "'trapezoid' or 'simpson'"}, "use Simpson here", "simpson"),
        ("date", {"type": "string", "description": "dd/mm/yyyy"}, "on March 4, 2023", "04/03/2023"),
        ("day", {"type": "string", "format": "date"}, "on March 4, 2023", "2023-03-04"),
        ("city", {"type": "string"}, "the weather in Rome today", "Rome"),
        ("city", {"type": "string", "description": "such as Rome, IT"}, "the weather in Rome today", "Rome, IT"),
        ("detailed", {"type": "boolean"}, "with a detailed report", True),
        ("human_impact", {"type": "boolean"}, "do not include human impact", False),
        ("values", {"type": "array", "items": NUMBER}, "the mean of 3, 4 and 5", [3.0, 4.0, 5.0]),
        ("values", {"type": "array", "items": {"type": "integer"}}, "the mean of [3, 4]", [3, 4]),
        (
            "info",
            {"type": "array", "items": {"type": "string", "enum": ["age_range", "rating", "price"]}},
            "its rating and the age range",
            ["rating", "age_range"],
        ),
    ],
)  # fmt: skip
def test_the_fittest(name: str, schema: dict[str, Any], text: str, value: Any) -> None:
    found = best(name, schema, text)
    assert found == value
    assert type(found) is type(value)


def test_a_whole_number_is_wanted_where_one_is() -> None:
    assert options("count", {"type": "integer"}, read("about 2.5 metres")) == []


@pytest.mark.parametrize(
    ("schema", "text", "is_gap"),
    [
        ({"type": "string"}, "the way from something to Rome", True),
        ({"type": "string"}, "play that one", True),
        ({"type": "string"}, "the root of it.", True),
        ({"type": "string"}, "I think that Rome is old", False),
        ({"type": "string"}, "some jazz", False),
        ({"type": "integer"}, "a base of some metres", True),
        ({"type": "integer"}, "a base of ___ metres", True),
        ({"type": "string", "enum": ["a"]}, "something", False),
        ({"type": "boolean"}, "something", False),
    ],
)
def test_a_gap_is_the_place_of_a_value_and_no_value(schema: dict[str, Any], text: str, is_gap: bool) -> None:
    found = options("place", schema, read(text))
    assert any(option.is_gap for option in found) is is_gap
    assert all(option.value is None for option in found if option.is_gap)
    assert not any("something" in str(option.value) for option in found if schema.get("enum") is None)


def test_values_outside_of_the_part_count_less() -> None:
    text = read("Weather in Rome. Weather in Oslo.")
    first, second = (options("city", {"type": "string"}, text, span)[0].value for span in ((0, 16), (17, 33)))
    assert (first, second) == ("Rome", "Oslo")


def test_every_option_has_its_source_in_the_text() -> None:
    text = read("Book flights from Oslo to Rome on March 4, 2023 for 3 people")
    for name in ("origin", "people", "note"):
        for option in options(name, {"type": "string"}, text):
            assert option.source == "query"
            assert option.mention is not None


def test_defaults_stated_or_described() -> None:
    assert default_of({"default": 3}) == 3
    assert default_of({"description": "Default is 'miles'."}) == "miles"
    assert default_of({"description": "The unit."}) is None


@pytest.mark.parametrize(
    ("kind", "told", "value"),
    [
        ("number", "Gravity. Default is -9.81 m/s^2.", -9.81),
        ("number", "Permittivity, default 8.854 x 10^-12 F/m (vacuum).", 8.854e-12),
        ("integer", "How often. Defaults to 1 if not provided.", 1),
        ("integer", "The beat. Defaults to 1,200 beats per minute.", 1200),
        ("integer", "A share. Default is 0.5.", None),
        ("integer", "Default is the current year.", None),
        ("boolean", "Round up. Default is True.", True),
        ("boolean", "Defaults to false", False),
        ("boolean", "Default is as before.", None),
        ("array", "Default is empty list.", None),
        ("object", "Default to not use any exclusion.", None),
        ("string", "The version. Default is 2.1.", "2.1"),
        ("string", "The country. Defaults to US if not given.", "US"),
        ("string", "The team. Default ''", None),
    ],
)
def test_a_described_default_is_of_the_parameters_type(kind: str, told: str, value: object) -> None:
    made = default_of({"type": kind, "description": told})
    assert made == value
    assert type(made) is type(value)


def test_a_described_default_that_the_enum_has_not_is_none() -> None:
    schema = {"type": "string", "enum": ["Red", "Blue"], "description": "Default is blue"}
    assert default_of(schema) == "Blue"
    assert default_of({**schema, "enum": ["Red"]}) is None
