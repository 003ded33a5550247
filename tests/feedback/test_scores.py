from __future__ import annotations

import math

import numpy as np
import pytest

from modelworks.core.errors import ConfigError, TrainingError
from modelworks.feedback.scores import of_text, read_reward, read_rule, score_all
from modelworks.train.rewards import Answered, length

PROMPT = [{"role": "user", "content": "?"}]


def scored(reward, *answers):
    return score_all(reward, [PROMPT] * len(answers), answers)


def test_numbers_come_in_order():
    found = scored(length(), "one", "", "one two three")
    assert found.values.tolist() == [1, 0, 3]
    assert not found.failures


def test_nan_and_infinity_are_counted_by_name():
    """A reward that returns NaN is never a silent NaN."""
    found = scored(of_text({"a": math.nan, "b": math.inf, "c": 1.0, "d": math.nan}.__getitem__), *"abcd")
    np.testing.assert_array_equal(found.values, [math.nan, math.nan, 1.0, math.nan])
    assert found.failures == {"no number": 3}


def test_a_reward_that_raises_costs_that_answer_alone():
    def reward(text):
        if text == "b":
            raise KeyError("no such\nanswer")
        return math.nan if text == "c" else 1.0

    found = scored(of_text(reward), *"abcd")
    assert np.isfinite(found.values).tolist() == [True, False, False, True]
    assert found.failures == {"KeyError: 'no such\\nanswer'": 1, "no number": 1}


def test_another_number_of_values_is_an_error_of_the_reward():
    for values in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(TrainingError, match=rf"gave {len(values)} numbers for 2 answers"):
            scored(lambda answered, values=values: values, "a", "b")
    with pytest.raises(ConfigError, match="no number for any of 2 answers: no number"):
        scored(lambda answered: [math.nan] * len(answered), "a", "b").some()
    with pytest.raises(ValueError, match="1 prompts and 2 answers"):
        score_all(length(), [PROMPT], ["a", "b"])


RULE = """
per_word = -0.1
[[patterns]]
regex = '(?i)\\bsorry\\b'
weight = -1
[[patterns]]
regex = '\\d'
weight = 0.5
most = 3
"""


def test_a_rule_counts_its_patterns_each_so_often_at_most(tmp_path):
    (tmp_path / "rule.toml").write_text(RULE)
    rule = read_rule(tmp_path / "rule.toml")
    assert rule("Sorry, sorry") == pytest.approx(-1.2)
    assert rule("12345") == pytest.approx(1.5 - 0.1)
    assert rule(" \n") == -10
    assert read_reward(str(tmp_path / "rule.toml"))([Answered(PROMPT, "7", {})])[0] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[patterns]]\nregex = '('\nweight = 1", r"patterns\.0: '\(' is no regular expression"),
        ("[[patterns]]\nregex = 'a'\nweigth = 1", r"patterns\.0\.weigth: unknown; did you mean weight\?"),
        ("[[patterns]]\nregex = 'a'\nweight = nan", "the weight finite"),
        ("per_word = 1", "patterns: missing"),
    ],
)
def test_a_faulty_rule_is_one_line_with_its_path(tmp_path, text, said):
    (tmp_path / "rule.toml").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_rule(tmp_path / "rule.toml")
    assert str(caught.value).startswith(str(tmp_path))


def test_a_reward_by_name():
    assert read_reward("length")([Answered(PROMPT, "a b", {})]) == [2.0]
    assert read_reward("statistics:mean") is not None
    for ref, said in (("wit", "no reward"), ("no.such:f", "No module"), ("math:nope", "nope"), ("math:pi", "float")):
        with pytest.raises(ConfigError, match=said):
            read_reward(ref)
