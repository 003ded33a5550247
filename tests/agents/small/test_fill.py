"""Arguments of a call: from the text, by what code and a model make of the options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelworks.agents.small.evidence import Evidence
from modelworks.agents.small.fill import Filled, fill
from modelworks.agents.small.plan import Ask
from modelworks.agents.small.slots import Judges, Likeness, Weights
from modelworks.agents.small.texts import read
from modelworks.agents.tool import Tool
from modelworks.retrieval.evidence import Reading

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}


def filled(text: str, properties: dict[str, Any], required: Sequence[str], *more: str, **settings: Any) -> Filled:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    whole = (0, len(text))
    ask = Ask(Tool("f", "", schema, print, frozenset()), whole, whole)
    texts = [read(text), *(read(each, "observation") for each in more)]
    return fill(ask, texts, settings.pop("weights", Weights()), **settings)


def test_values_in_the_schema_s_order_each_with_its_source() -> None:
    made = filled("height 5 and base 10", {"base": WHOLE, "height": WHOLE}, ["base", "height"])
    assert list(made.arguments.items()) == [("base", 10), ("height", 5)]
    assert {option.source for option in made.sources.values()} == {"query"}
    assert made.missing == ()


def test_what_nothing_fits_is_missing_and_an_observation_can_bring_it() -> None:
    properties = {"user_id": WHOLE, "city": TEXT}
    assert filled("mail to Ada in Rome", properties, ["user_id", "city"]).missing == ("user_id",)
    made = filled("mail to Ada in Rome", properties, ["user_id", "city"], '{"user_id": 4711}')
    assert made.arguments == {"user_id": 4711, "city": "Rome"}
    assert made.sources["user_id"].source == "observation"


def test_a_value_that_is_nowhere_is_not_another_parameter_s() -> None:
    """A triangle "with a base of some number units and a height of 5" was one with a base of 5."""
    sides = {"base": WHOLE, "height": WHOLE}
    for text in ("a base of some number units and a height of 5 units", "a base and a height of 5 units"):
        made = filled(text, sides, ["base", "height"])
        assert made.missing == ("base",)
        assert made.arguments == {"height": 5}
    places = {"start": TEXT, "destination": TEXT}
    made = filled("the shortest way from something to Rome", places, ["start", "destination"])
    assert (made.missing, made.arguments) == (("start",), {"destination": "Rome"})
    assert filled("play something", {"title": TEXT}, [], "something else").arguments == {}


def test_a_gap_of_an_observation_is_no_value() -> None:
    made = filled("mail to Ada", {"user_id": WHOLE}, ["user_id"], "some of them")
    assert (made.missing, made.arguments) == (("user_id",), {})


def test_the_model_is_not_asked_about_a_gap() -> None:
    def score(prefix: str, options: Sequence[str]) -> list[float]:
        assert "null" not in [option.strip(",}") for option in options]
        return [0.0] * len(options)

    places = {"start": TEXT, "destination": TEXT}
    made = filled("the way from something to Rome or Oslo", places, ["start", "destination"], score=score)
    assert made.missing == ("start",)


def test_plain_words_that_mean_something_else_are_not_taken() -> None:
    schema = {"sport": {"type": "string", "description": "A sport"}}
    near = {"tennis": 0.8}
    like = lambda _, others: [near.get(each, 0.1) for each in others]  # noqa: E731
    assert filled(
        "who is the best in tennis", schema, ["sport"], judges=Judges(like), weights=Weights(meant=1.0)
    ).arguments == {"sport": "tennis"}
    assert filled(
        "who is the best in town", schema, ["sport"], judges=Judges(like), weights=Weights(meant=1.0)
    ).missing == ("sport",)


def reading(**margins: float) -> Judges:
    """A reader that knows of some words how far they are the value that is asked for, and nothing of others."""

    def read(_: str, passages: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> list[list[Reading]]:
        return [[Reading(a, b, margins.get(passages[0][a:b], -12.0)) for a, b in spans[0]]]

    return Judges(evidence=Evidence(read))


def test_a_value_that_the_reader_rules_out_is_asked_for() -> None:
    """In "the lyrics of a song by Queen" the name is no title."""
    title = {"title": {"type": "string", "description": "Title of the song"}}
    text = "find me the lyrics of a song by Queen"
    assert filled(text, title, ["title"]).arguments == {"title": "Queen"}
    assert filled(text, title, ["title"], judges=reading(Queen=-12.0)).missing == ("title",)
    assert filled(text, title, ["title"], judges=reading(Queen=4.0)).arguments == {"title": "Queen"}
    assert filled("a height of 5", {"base": WHOLE}, ["base"], judges=reading()).missing == ("base",)


def test_what_is_marked_as_a_value_is_not_ruled_out() -> None:
    """ "Write 'hello' to the file greeting.txt" got a question back: the path."""
    file = {"path": {"type": "string", "description": "Path of the file"}, "content": {"type": "string"}}
    made = filled("write 'hello' to the file greeting.txt", file, ["path", "content"], judges=reading())
    assert made.arguments == {"path": "greeting.txt", "content": "hello"}
    made = filled("write 'hello' to a file", file, ["path", "content"], judges=reading(**{"'hello'": 1.0}))
    assert len(made.missing) == 1


def test_plain_words_that_answer_need_not_be_like_the_parameter() -> None:
    text = {"text": {"type": "string", "description": "What to look for"}}
    unlike: Likeness = lambda _, others: [0.0] * len(others)  # noqa: E731
    asked = "find the word office in here"
    knows = reading(**{"word office": 4.0}).evidence
    assert filled(asked, text, ["text"], judges=Judges(unlike, reading().evidence)).missing == ("text",)
    assert filled(asked, text, ["text"], judges=Judges(unlike, knows)).arguments == {"text": "word office"}


def test_the_reader_reads_observations_too() -> None:
    city = {"city": {"type": "string"}}
    asked, seen = "the weather there", "The office is in Rome, says Ada."
    assert filled(asked, city, ["city"], seen, judges=reading(Rome=6.0)).arguments == {"city": "Rome"}
    assert filled(asked, city, ["city"], seen, judges=reading(Ada=6.0)).arguments == {"city": "Ada"}
    assert filled(asked, city, ["city"], seen, judges=reading()).missing == ("city",)


def test_one_of_several_values_that_is_needed_has_to_be_said() -> None:
    unit = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    named = {"type": "string", "description": "Either 'gas' or 'diesel'."}
    for schema in (unit, named, {"type": "boolean"}):
        assert filled("how warm is it", {"unit": schema}, ["unit"], judges=reading()).missing == ("unit",)
        assert filled("how warm is it", {"unit": schema}, [], judges=reading()).arguments == {}
    assert filled("how warm is it in Celsius", {"unit": unit}, ["unit"]).arguments == {"unit": "celsius"}
    assert filled("how warm is it", {"unit": {**unit, "default": "celsius"}}, ["unit"]).arguments == {"unit": "celsius"}
    assert filled("how warm is it", {"unit": {**unit, "enum": ["kelvin"]}}, ["unit"]).arguments == {"unit": "kelvin"}


def test_objects_are_made_of_their_own_properties() -> None:
    area = {"type": "object", "properties": {"width": WHOLE, "height": WHOLE}, "required": ["width", "height"]}
    assert filled("a width of 20 and a height of 12", {"area": area}, ["area"]).arguments == {
        "area": {"width": 20, "height": 12}
    }


def test_the_model_chooses_among_what_code_offers() -> None:
    asked: list[tuple[str, list[str]]] = []

    def score(prefix: str, options: Sequence[str]) -> list[float]:
        asked.append((prefix, list(options)))
        return [0.0 if option == '"tennis"' else -30.0 for option in options]

    text = "the best player of tennis by rank"
    made = filled(text, {"sport": TEXT}, ["sport"], score=score, head='{"arguments": ')
    assert made.arguments == {"sport": "tennis"}
    ((prefix, options),) = asked
    assert prefix == '{"arguments": {"sport": '
    assert len(options) <= 8
    assert all(option.strip('"') in text for option in options)
    # a number is scored with what comes behind it, since 1 begins 10
    asked.clear()
    filled("1 of 10 or 2 of 20", {"n": WHOLE, "m": WHOLE}, ["n", "m"], score=score)
    assert all(option.endswith((",", "}")) for _, options in asked for option in options)
