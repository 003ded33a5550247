"""The best choice for all parameters of a call at once."""

from __future__ import annotations

from typing import Any

from modelworks.agents.small.slots import Judges, Weights, assigned, slots
from modelworks.agents.small.texts import Option, read
from modelworks.agents.tool import Tool

TEXT, WHOLE = {"type": "string"}, {"type": "integer"}


def chosen(text: str, required: list[str], **properties: Any) -> list[Any]:
    tool = Tool("f", "", {"type": "object", "properties": properties, "required": required}, print, frozenset())
    found = slots(tool, (0, len(text)), (0, len(text)), {}, [read(text)], Weights())
    return [None if option is None else option.value for option in assigned(found, Weights())]


def test_a_place_is_taken_once_and_order_decides_between_equals() -> None:
    assert chosen("the product of 36 and 24", ["number1", "number2"], number1=WHOLE, number2=WHOLE) == [36, 24]
    assert chosen("from Rome to Oslo", ["a", "b"], a=TEXT, b=TEXT) == ["Rome", "Oslo"]


def test_what_may_be_left_out_is_where_nothing_speaks_of_it() -> None:
    days = {"type": "integer"}
    assert chosen("the weather in Rome", ["city"], city=TEXT, days=days) == ["Rome", None]
    assert chosen("the weather in Rome for 3 days", ["city"], city=TEXT, days=days) == ["Rome", 3]


def test_a_default_stands_in_for_what_is_required() -> None:
    assert chosen("hello", ["unit"], unit={"type": "integer", "default": 7}) == [7]


def test_further_texts_count_less_and_likeness_decides() -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"sport": TEXT}, "required": ["sport"]}, print, frozenset())
    texts = [read("the best tennis player"), read("the best Rowing", "observation")]
    whole = (0, 22)
    tennis = Judges(lambda _, each: [0.9 * (text == "tennis") for text in each])
    found = slots(tool, whole, whole, {}, texts, Weights(), tennis)
    (option,) = assigned(found, Weights(meant=9.0))
    assert option is not None
    meant = slots(tool, whole, whole, {}, texts, Weights(meant=9.0), tennis)
    (option,) = assigned(meant, Weights())
    assert option is not None
    assert option.value == "tennis"


def test_what_is_pinned_stays() -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"n": WHOLE}, "required": ["n"]}, print, frozenset())
    (slot,) = slots(tool, (0, 3), (0, 3), {"n": Option(9, "query", 0.0)}, [read("5 6")], Weights())
    (option,) = assigned([slot], Weights())
    assert option is not None
    assert option.value == 9
