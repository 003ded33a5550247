"""How well a place fits a parameter, by the words around it."""

from __future__ import annotations

import pytest

from modelworks.agents.small.cues import cue, is_place
from modelworks.agents.small.texts import read


@pytest.mark.parametrize(
    ("text", "name", "nearer", "farther"),
    [
        ("a base of 10 and a height of 5", "height", 5, 10),
        ("from Rome to Oslo", "destination", "Oslo", "Rome"),
        ("from Rome to Oslo", "start_city", "Rome", "Oslo"),
        ("3 rooms and 2 floors", "floors", 2, 3),
        ("sides of 3 and 4", "side3", 3, 4),  # the number of a parameter is no word of its
    ],
)
def test_the_nearer_words_speak(text: str, name: str, nearer: object, farther: object) -> None:
    read_text = read(text)
    fits = {mention.value: cue(name, {}, mention, read_text) for mention in read_text.mentions}
    assert fits[nearer] > fits[farther]


def test_a_sentence_s_end_is_the_end_of_what_is_near() -> None:
    text = read("The height matters. Take 5 of them")
    (number,) = (mention for mention in text.mentions if mention.kind == "number")
    assert cue("height", {}, number, text) == 0.0
    assert is_place("start_location")
    assert not is_place("query")
