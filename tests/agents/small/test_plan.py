"""How many calls a request wants, of which tools."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from modelworks.agents.small import slots
from modelworks.agents.small.evidence import Evidence
from modelworks.agents.small.plan import Weights, filled, pieces, plan
from modelworks.agents.small.rank import Ranker
from modelworks.agents.small.texts import read
from modelworks.agents.tool import Tool
from modelworks.retrieval.evidence import Reading


def make(name: str, description: str, **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return Tool(name, description, schema, print, frozenset())


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
WEATHER = make("weather", "Weather of a city.", city=TEXT)
SONG = make("play_song", "Play music of an artist.", artist=TEXT, duration=WHOLE)
GCD = make("gcd", "Greatest common divisor of two numbers.", num1=WHOLE, num2=WHOLE)
AREA = make("circle.area", "Area of a circle.", radius=WHOLE)
FLIGHT = make("flight", "Flights between cities.", start=TEXT, end=TEXT)
MEAN = make("mean", "Mean of numbers.", values={"type": "array", "items": WHOLE})


def planned(text: str, *tools: Tool) -> list[tuple[str, dict[str, Any]]]:
    ranker = Ranker()
    asks = plan(read(text), ranker.rank(text, tools), ranker, Weights(), slots.Weights())
    return [(ask.tool.name, {name: option.value for name, option in ask.pinned.items()}) for ask in asks]


@pytest.mark.parametrize(
    ("text", "tool", "rows"),
    [
        ("What's the weather in Rome?", WEATHER, [{}]),
        ("What's the weather in Rome, Oslo and New York?", WEATHER, ["Rome", "Oslo", "New York"]),
        ("The gcd of 36 and 48?", GCD, [{}]),
        ("Flights from Rome to Oslo", FLIGHT, [{}]),
        ("The mean of 3, 4 and 5?", MEAN, [{}]),
        ("The area of a circle with a radius of 5? And then for a radius of 10?", AREA, [5, 10]),
        (
            "Play music of the artists Taylor Swift and Maroon 5, for 20 minutes and 15 minutes respectively",
            SONG,
            [{"artist": "Taylor Swift", "duration": 20}, {"artist": "Maroon 5", "duration": 15}],
        ),
        (
            "The gcd of the numbers 36 and 48, then of the numbers 60 and 96",
            GCD,
            [{"num1": 36, "num2": 48}, {"num1": 60, "num2": 96}],
        ),
    ],
)  # fmt: skip
def test_rows_of_one_tool(text: str, tool: Tool, rows: list[Any]) -> None:
    found = [given for _, given in planned(text, tool)]
    assert found == [row if isinstance(row, dict) else {next(iter(tool.parameters["properties"])): row} for row in rows]


def test_parts_go_to_the_tools_that_they_are_like() -> None:
    text = "Play music of Etta Moon for 5 minutes. Also, what is the weather of the city Rome?"
    assert [name for name, _ in planned(text, WEATHER, SONG, AREA)] == ["play_song", "weather"]
    assert [name for name, _ in planned("What is the weather of the city Rome?", WEATHER, SONG, AREA)] == ["weather"]


def test_pieces_cover_the_text() -> None:
    text = "Find the area, and then the height. Also this one. A word"
    spans = pieces(text)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(one[1] == other[0] for one, other in pairwise(spans))
    assert len(spans) > 2


def test_how_much_of_what_is_required_a_text_has() -> None:
    assert filled(read("the gcd of 4 and 6"), (0, 18), GCD) == 1.0
    assert filled(read("the gcd of 4 and what?"), (0, 22), GCD) == 0.5
    assert filled(read("hello"), (0, 5), make("now", "")) == 0.5


def test_a_further_call_is_not_made_of_what_the_reader_rules_out() -> None:
    text = "the weather in Boston and Rome"
    ranker = Ranker()

    def cities(*known: str) -> list[object]:
        def read_(_: str, passages: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> list[list[Reading]]:
            return [[Reading(a, b, 5.0 if passages[0][a:b] in known else -20.0) for a, b in spans[0]]]

        judges = slots.Judges(evidence=Evidence(read_))
        asks = plan(read(text), ranker.rank(text, [WEATHER]), ranker, Weights(), slots.Weights(), judges)
        return [option.value for ask in asks for option in ask.pinned.values()]

    assert cities("Boston", "Rome") == ["Boston", "Rome"]
    assert cities("Boston") == []
