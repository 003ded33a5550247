"""A text as it is read: once, with what lies in what."""

from __future__ import annotations

from modelworks.agents.small.texts import Option, read


def test_what_lies_in_what() -> None:
    text = read("Sort [3, 1] on 2023-04-05 for 'Ada Byron'")
    inside = {str(mention.value): mention for mention in text.mentions}
    assert text.lies_in_brackets(inside["3.0"])
    assert not text.lies_in_brackets(inside["[3, 1]"])
    year = next(mention for mention in text.mentions if mention.kind == "number" and mention.value == 2023)
    assert text.lies_within(year, ("date",))
    assert not text.lies_within(year, ("quoted",))


def test_a_text_is_read_once_and_an_option_s_text_is_json() -> None:
    assert read("a text") is read("a text")
    assert read("a text") is not read("a text", "observation")
    assert Option("é", "query", 0.0).text == '"é"'


def test_of_what_a_tool_floods_only_the_beginning_is_read() -> None:
    text = read("it printed 5 " * 500_000, "observation")
    assert len(text.text) == 4000
    assert all(mention.end <= 4000 for mention in text.mentions)
