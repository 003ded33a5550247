"""Words as tool and text share them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.small.words import is_indefinite, parts, stem, stems, words


@pytest.mark.parametrize(
    "alike",
    [("calculate", "calculated", "calculating", "calculation"), ("city", "cities"), ("distance", "distances")],
)
def test_forms_of_a_word_have_one_stem(alike: tuple[str, ...]) -> None:
    assert len({stem(word) for word in alike}) == 1


def test_names_are_split_and_empty_words_left_out() -> None:
    assert parts("get_userName.v2") == ["get", "user", "Name", "v", "2"]
    assert stems("Find the user_name of a person") == [stem("find"), stem("user"), stem("name"), stem("person")]


@given(st.text())
def test_words_stand_where_they_say(text: str) -> None:
    found = list(words(text))
    assert all(text[word.start : word.end] == word.text for word in found)
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_what_names_nothing() -> None:
    assert all(is_indefinite(text) for text in ("something", "that one", "Someone", "the one", "it"))
    assert not any(is_indefinite(text) for text in ("", "some jazz", "the", "one step", "Rome"))
