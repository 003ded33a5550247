"""What a text mentions: spans with the values that they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.small.mentions import enumerations, mentions


def found(text: str, kind: str) -> list[object]:
    return [mention.value for mention in mentions(text) if mention.kind == kind]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Play songs of Taylor Swift now", "name", "Taylor Swift"),
        ("Find New York on the map", "name", "New York"),
        ("The distance to Washington, D.C. by car", "name", "Washington, D.C."),
        ("Who was the King of France?", "name", "France"),
        ("Who was the King of France?", "name", "King of France"),
        ("Read 'The Office' aloud", "quoted", "The Office"),
        ('Say "it is noon" to Jo', "quoted", "it is noon"),
        ("Open sales_2021.csv", "id", "sales_2021.csv"),
        ("SNP rs6034464 please", "id", "rs6034464"),
        ("Get https://example.org/a?b=1, please", "id", "https://example.org/a?b=1"),
        ("the season 2022-2023", "id", "2022-2023"),
        ("the area under y = x^3 here", "expression", "x^3"),
        ("What is 12 * 17 + 5?", "expression", "12 * 17 + 5"),
        ("work out (3+4)*2 - 1.5 please", "expression", "(3+4)*2 - 1.5"),
        ("the square root of 1764?", "expression", "sqrt(1764)"),
        ("Read the file pairs.jsonl now", "id", "pairs.jsonl"),
        ("the mean of [1, 2.5, -3]", "list", [1, 2.5, -3]),
        ("how dense is liquid methane", "phrase", "liquid methane"),
    ],
)
def test_kinds(text: str, kind: str, value: object) -> None:
    assert value in found(text, kind)


def test_a_number_behind_a_request_is_no_part_of_a_name() -> None:
    """In "Convert 100 dollars" 100 was a name, and so a currency."""
    assert found("Convert 100 dollars to euros", "name") == []
    assert found("Convert 1,000.50 USD to EUR", "name") == ["USD", "EUR"]
    assert found("Order 3 Pizza Bianca", "name") == ["Pizza Bianca"]
    assert found("Visit Area 51 today", "name") == ["Area 51"]


def test_a_key_of_json_is_no_value() -> None:
    text = '{"user_id": 4711, "name" : "Ada Byron"}'
    assert {each.value for each in mentions(text)} == {4711, "Ada Byron", "Ada", "Byron"}
    assert found('Say "yes": it is true', "quoted") == ["yes"]


def test_a_request_s_verb_is_no_name_and_a_whole_text_no_quotation() -> None:
    assert found("Calculate the area.", "name") == []
    text = '"' + "Could you find the area of a circle for me? " * 4 + "It's called 'Round'." + '"'
    assert found(text, "quoted") == ["Round"]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("the weather in Boston, Rome and New York", ["Boston", "Rome", "New York"]),
        ("20 minutes and 15 minutes", [20, 15]),
        ("the numbers 45, 100, and 150", [45, 100, 150]),
        ("the resistivity of copper and aluminum", ["copper", "aluminum"]),
        ("'a' and 'b'", ["a", "b"]),
    ],
)
def test_lists(text: str, listed: list[object]) -> None:
    groups = enumerations(text, mentions(text))
    assert listed in [[mention.value for mention in group] for group in groups]


def test_what_is_not_joined_is_no_list() -> None:
    text = "from Boston to Rome, Google in California"
    assert not any(
        "Google" in str(group) and "California" in str(group) for group in enumerations(text, mentions(text))
    )


@given(st.text(max_size=80))
def test_mentions_stand_in_the_text(text: str) -> None:
    assert all(0 <= mention.start <= mention.end <= len(text) for mention in mentions(text))


@pytest.mark.parametrize(
    "text", ["on 2024-01-05", "from 5-10 people", "call 555-1234", "chapter 3.", "about 12, 17 and 5"]
)
def test_what_only_looks_like_a_sum_is_none(text: str) -> None:
    assert [each for each in mentions(text) if each.kind == "expression"] == []
