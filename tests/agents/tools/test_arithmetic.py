from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.tools import arithmetic
from modelworks.agents.tools.arithmetic import CONTEXT, FUNCTIONS, CalculationError

_fractions = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6)


@given(_fractions, _fractions)
def test_fractions_stay_exact(left: Fraction, right: Fraction) -> None:
    assert arithmetic.add(left, right) == left + right
    assert arithmetic.multiply(left, right) == left * right
    if right:
        assert arithmetic.divide(left, right) == left / right
        assert arithmetic.remainder(left, right) == left % right
        assert arithmetic.floor_divide(left, right) == left // right


@given(st.fractions(min_value=0, max_value=10**6, max_denominator=1000), st.integers(1, 7))
def test_a_root_of_a_power_is_exact(value: Fraction, degree: int) -> None:
    assert arithmetic.root(value**degree, Fraction(degree)) == value
    assert arithmetic.power(value**degree, Fraction(1, degree)) == value


@given(st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=1000))
def test_functions_are_those_of_math(value: Fraction) -> None:
    x = float(value)
    with localcontext(CONTEXT):
        for name, expected in (("sqrt", math.sqrt(x)), ("ln", math.log(x)), ("exp", math.exp(min(x, 300.0))),
                               ("sin", math.sin(x)), ("atan", math.atan(x)), ("log2", math.log2(x))):  # fmt: skip
            argument = min(value, Fraction(300)) if name == "exp" else value
            assert float(FUNCTIONS[name][0](argument)) == pytest.approx(expected, rel=1e-12, abs=1e-12), name


def test_half_is_rounded_away_from_zero() -> None:
    rounded = FUNCTIONS["round"][0]
    assert [rounded(Fraction(n, 2)) for n in (-3, -1, 1, 3, 5)] == [-2, -1, 1, 2, 3]
    assert rounded(Decimal("2.345"), Fraction(2)) == Fraction(235, 100)
    assert rounded(Fraction(1250), Fraction(-2)) == 1300


def test_what_is_too_large_is_refused_before_it_is_computed() -> None:
    for base, exponent in ((2, 10**9), (10**4000, 10**4000), (Fraction(1, 3), 10**12)):
        with pytest.raises(CalculationError, match="too large"):
            arithmetic.power(Fraction(base), Fraction(exponent))
    assert arithmetic.power(Fraction(-1), Fraction(10**9 + 1)) == -1
    assert arithmetic.power(Fraction(0), Fraction(10**9)) == 0
    with pytest.raises(CalculationError, match="0 to 1,500"):
        arithmetic.factorial(Fraction(10**6))
