"""What a parameter of type string may be, by the kind of what a text mentions."""

from __future__ import annotations

import pytest

from modelworks.agents.small.strings import implied, said, strings
from modelworks.agents.small.texts import read


def best(name: str, description: str, text: str) -> tuple[str, str]:
    found = max(strings(name, {"type": "string", "description": description}, read(text)), key=lambda each: each.fit)
    return found.value, found.source


@pytest.mark.parametrize(
    ("name", "description", "text", "value"),
    [
        ("email", "Email address to write to", "Write to Ada Byron at ada@example.org", "ada@example.org"),
        ("path", "Path of the file", "Open report_v2.csv in Excel", "report_v2.csv"),
        ("message", "What to say", "Tell Ada 'I will be late for dinner today'", "I will be late for dinner today"),
        ("hotel", "Name of the hotel", "A room in Hotel Aurora, Turin", "Hotel Aurora"),
        ("event", "Historical event", "When was the Treaty of Lisbon signed?", "Treaty of Lisbon"),
        ("country", "The country", "the King of France in 1510", "France"),
        ("function", "Python expression of x", "the slope of y = x^2 at 3", "x**2"),
        ("time", "HH:MM", "at 6 PM in Rome", "18:00"),
        ("unit", "Unit of length", "a wire of 5 meters", "meters"),
        ("cuisine", "Kind of food", "which of them have tasty sushi", "tasty sushi"),
    ],
)
def test_the_fittest(name: str, description: str, text: str, value: str) -> None:
    assert best(name, description, text) == (value, "query")


def test_an_example_is_the_description_s() -> None:
    assert best("city", "City and state, such as Austin, TX", "the weather in Austin") == ("Austin, TX", "description")


def test_values_that_a_description_names() -> None:
    assert implied({"description": "One of 'real' or 'all'. It's easy."}) == ["real", "all"]
    fit, where = said("average_rating", "its rating, on average")
    assert 0 < fit < 3
    assert where is not None
    assert where.start < where.end  # whatever the order of a set
    assert said("price", "its rating") == (0.0, None)
