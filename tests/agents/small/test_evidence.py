"""Whether a text says a parameter's value, by a reader."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from modelworks.agents.small.evidence import Evidence, question
from modelworks.agents.small.texts import read
from modelworks.retrieval.evidence import Reading, Span
from modelworks.retrieval.reader import parameter_reader

CITY = {"type": "string", "description": "The city to look up"}


class Scripted:
    """A reader that is sure of one word, and of nothing else."""

    def __init__(self, word: str) -> None:
        self.word, self.asked = word, []

    def read(self, asked: str, passages: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[Reading]]:
        self.asked += [(asked, passage) for passage in passages]
        return [
            [Reading(a, b, 5.0 if passage[a:b] == self.word else -5.0) for a, b in inside]
            for passage, inside in zip(passages, spans, strict=True)
        ]


def test_a_parameter_is_a_question() -> None:
    assert question("toCity", CITY) == "What to city? The city to look up"
    assert question("n", {}) == "What n?"


def test_each_mention_has_its_margin_and_a_text_is_read_once() -> None:
    reader = Scripted("Rome")
    evidence = Evidence(reader.read)
    text = read("from Rome to Oslo")
    margins = evidence.margins("city", CITY, text)
    found = {text.text[start:end]: margin for (start, end), margin in margins.items()}
    assert (found["Rome"], found["Oslo"]) == (5.0, -5.0)
    assert evidence.margins("city", CITY, text) is margins
    assert len(reader.asked) == 1
    evidence.margins("city", {**CITY, "description": "Other"}, text)
    assert len(reader.asked) == 2


def test_a_long_text_is_read_by_parts_that_the_reader_can_take() -> None:
    """A mention at any place is read, whole, with what stands around it."""
    reader = Scripted("Rome")
    text = read("nothing of note. " * 120 + "It is in Rome today. " + "nothing of note. " * 60)
    margins = Evidence(reader.read).margins("city", CITY, text)
    start = text.text.index("Rome")
    assert margins[start, start + 4] == 5.0
    assert all(len(passage) <= 800 for _, passage in reader.asked)
    assert set(margins) == {(each.start, each.end) for each in text.mentions}
    (passage,) = {passage for _, passage in reader.asked if "Rome" in passage and margins}
    assert "It is in Rome today." in passage


def test_nothing_is_read_where_nothing_is_mentioned() -> None:
    reader = Scripted("Rome")
    assert Evidence(reader.read).margins("city", CITY, read("")) == {}
    assert reader.asked == []


@pytest.mark.parametrize(
    ("asked", "said", "unsaid"),
    [
        ("What's the weather in Lisbon on Friday?", "Lisbon", "What's the weather on Friday?"),
        ("Find concerts of Marta Vale in Porto.", "Porto", "Find concerts of Marta Vale."),
    ],
)
def test_the_reader_that_ships_knows_what_is_said_from_what_is_not(asked: str, said: str, unsaid: str) -> None:
    evidence = Evidence(parameter_reader().read)
    text, other = read(asked), read(unsaid)
    margins = evidence.margins("city", {"type": "string", "description": "Name of the city"}, text)
    start = asked.index(said)
    best = margins[start, start + len(said)]
    assert best == max(margins.values())
    assert best > max(evidence.margins("city", {"type": "string", "description": "Name of the city"}, other).values())
