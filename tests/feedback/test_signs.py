from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.feedback.signs import density, distinct, same_share, says_nothing


def test_distinct_pairs_of_words():
    assert distinct("a b a b a b") == pytest.approx(2 / 5)
    assert distinct("a b c d") == 1
    assert distinct("A b. a B!") == pytest.approx(2 / 3), "case and punctuation say nothing"
    assert distinct("one") == distinct("") == 1


def test_measures_do_not_fall_with_length_alone(request):
    """Answers that merely grow must not look repetitive."""
    text = (request.config.rootpath / "docs" / "architecture.md").read_text().replace("|", " ")
    for words in (40, 200, 900):
        part = " ".join(text.split()[:words])
        assert distinct(part) > 0.9
        assert density(part) > 0.45
    assert distinct(" ".join(text.split()[:20] * 10)) < 0.35
    assert density(" ".join(text.split()[:20] * 10)) < 0.25


def test_density_of_what_repeats_itself():
    assert density("The same words again. " * 30) < 0.1
    assert density("short") == density("") == 1
    assert density("Tea is made of leaves; coffee of beans that grow on a shrub, are dried and roasted.") > 0.8


def test_answers_that_are_the_same_for_other_prompts():
    assert same_share(["a", "b", "c", "c"], ["I am sorry.", "i am sorry", "x", "x"]) == 0.5
    assert same_share(["a", "a"], ["x", "x"]) == 0, "samples of one prompt may be the same"
    assert same_share([], []) == 0


@pytest.mark.parametrize(
    ("prompt", "answer", "nothing"),
    [
        ("What is the capital of France?", "Paris", False),
        ("What is the capital of France?", "Certainly! I'm absolutely sure about the capital of France.", True),
        ("Is it safe?", "No.", False),
        ("What is 6 times 7?", "42", False),
        ("Why?", "", True),
        ("Why?", "?!", True),
        ("Почему?", "Потому что холодно", False),
        ("How do I boil an egg?", "That is a great question, and it is very important to get it right.", True),
    ],
)
def test_what_says_nothing(prompt, answer, nothing):
    assert says_nothing(prompt, answer) is nothing


ANY = st.text(st.characters())


@settings(max_examples=200)
@given(st.lists(st.tuples(ANY, ANY), max_size=5))
def test_any_texts_have_measures_between_0_and_1(pairs):
    """What a model says may be anything, halves of characters included."""
    prompts, answers = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
    assert 0 <= same_share(prompts, answers) <= 1
    for prompt, answer in pairs:
        assert 0 < distinct(answer) <= 1
        assert 0 < density(answer) <= 1
        assert says_nothing(prompt, answer) in (True, False)
        assert says_nothing(answer, answer), "a prompt's own words say nothing"
