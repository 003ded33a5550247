from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.evals.answers import final_number, is_same_number, numbers, without_calculations

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "reasoning" / "gsm8k_train_4000.jsonl"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("She makes 9 * 2 = $18 every day.\n#### 18", 18),
        ("#### 1,234,567", 1234567),
        ("#### -5", -5),
        ("#### $70,000", 70000),
        ("The answer is 42.", 42),
        ("The answer is: $3.50 per egg, for 12 eggs", Fraction(7, 2)),
        ("so it is \\boxed{72}.", 72),
        ("He has 3 left, then 5 more, 8 in all.", 8),
        ("That is .5 of them", Fraction(1, 2)),
        ("He ate 3/4 of it", Fraction(3, 4)),
        ("20% of 50", 50),
        ("The answer is 10. #### 12", 12),
        ("#### 12\nLet me know if 7 is better. ####", 12),
        ("<<1+1=2>>nothing else", None),
        ("I do not know.", None),
        ("", None),
        ("1/0", None),
    ],
)
def test_the_final_number(text, value):
    assert final_number(text) == value


def test_what_is_one_number_and_what_are_several():
    assert numbers("1,2,3 and 1,000") == [1, 2, 3, 1000]
    assert numbers("16-3-4=9") == [16, 3, 4, 9]
    assert numbers("16 - 3 = 13, -$4 and $-5") == [16, 3, 13, -4, -5]
    assert numbers("between -3 and −4") == [-3, -4]


UNITS = st.sampled_from(["", " dollars", " apples.", "%", ".", "!", " km/h", "\n"])
MARKS = st.sampled_from(["#### ", "####", "The answer is ", "the answer is: $", "Answer: ", "\\boxed{"])


@given(st.integers(-(10**12), 10**12), st.booleans(), MARKS, UNITS, st.sampled_from(["", "First 3, then 4,000. "]))
def test_any_whole_number_is_found_however_it_is_written(value, commas, mark, unit, before):
    written = f"{value:,}" if commas else str(value)
    assert final_number(f"{before}{mark}{written}{unit}") == value


@given(st.decimals(-(10**6), 10**6, places=2), st.booleans(), MARKS)
def test_any_amount_of_money_is_found(value, commas, mark):
    written = f"{value:,}" if commas else str(value)
    assert final_number(f"{mark}{written} in all") == Fraction(value)


@given(st.text())
def test_any_text_has_a_number_or_none(text):
    assert final_number(text) is None or isinstance(final_number(text), Fraction)


def test_the_same_number_in_other_words():
    assert is_same_number("It costs $1,000.00 in all.", "Plain words\n#### 1000")
    assert not is_same_number("no idea", "#### 0")
    assert not is_same_number("#### 7", "#### 8")


@pytest.mark.skipif(not GSM8K.exists(), reason="shared/data is absent")
def test_every_gsm8k_solution_is_right_in_its_own_words():
    for line in GSM8K.read_text().splitlines():
        solution = json.loads(line)["answer"]
        stated = solution.rpartition("#### ")[2].replace(",", "")
        assert final_number(solution) == Fraction(stated)
        plain = without_calculations(solution)
        assert "<<" not in plain
        assert is_same_number(plain, solution)
