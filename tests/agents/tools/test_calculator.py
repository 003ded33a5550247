from __future__ import annotations

import random
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.tools.arithmetic import CalculationError
from modelworks.agents.tools.calculator import calculator, evaluate, told


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 + 2 * 3", "7"),
        ("0.1 + 0.2", "0.3"),
        ("-2^2", "-4"),
        ("2^3^2", "512"),
        ("2 ** -2", "0.25"),
        ("15% of 80", "12"),
        ("50% * 80", "40"),
        ("17 % 5", "2"),
        ("17 %(5)", "2"),
        ("-7 mod 3", "2"),
        ("7 // 2", "3"),
        ("10!/8!", "90"),
        ("2(3 + 4)", "14"),
        ("1,234.5 * 2", "2469"),
        ("max(1,234)", "234"),
        ("max((1,234), 7)", "1234"),
        ("6 × 7 ÷ 2 − 1", "20"),
        ("√16 + [1 + 1]", "6"),
        ("8^(1/3)", "2"),
        ("sqrt(2)", "1.4142135623731 (rounded)"),
        ("1/3", "0.333333333333333 (rounded; exactly 1/3)"),
        ("round(2.675, 2)", "2.68"),
        ("100 * (1 + 5%)^10", "162.889462677744140625"),
        ("log(1000) + log2(8)", "6"),
        ("cos(0)", "1"),
        ("2 pi", "6.28318530717959 (rounded)"),
        ("mean(1, 2, 4, 5)", "3"),
        ("comb(52, 5)", "2598960"),
        ("1e3", "1000"),
        ("2^100", "1267650600228229401496703205376"),
    ],
)
def test_values(expression: str, expected: str) -> None:
    assert told(evaluate(expression)) == expected


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "ends too early"),
        ("((1", "ends too early"),
        ("1 2", "'2' is not expected"),
        ("1 / (2 - 2)", "division by zero"),
        ("5 mod 0", "division by zero"),
        ("sqrt(-1)", "not a real number"),
        ("(-8)^0.5", "not a real number"),
        ("ln(0)", "above 0"),
        ("acos(2)", "no value"),
        ("9^9^9", "too large"),
        ("10^4000 * 10^4000", "too large"),
        ("exp(10^9)", "too large"),
        ("99999!", "0 to 1,500"),
        ("(" * 500 + "1" + ")" * 500, "nested too deeply"),
        ("sqrt(" * 100 + "1" + ")" * 100, "nested too deeply"),
        ("2" + "^2" * 200, "nested too deeply"),
        ("1" * 3000, "longer than"),
        ("1e99999", "too large"),
        ("sqrt(1, 2)", "takes 1 arguments, not 2"),
        ("__import__('os').system('true')", "not known"),
        ("open('x')", "not known"),
        ("().__class__", "not expected"),
        ("5 apples", "not known"),
        ("1; 2", "not expected"),
    ],
)
def test_what_has_no_value_says_why(expression: str, said: str) -> None:
    with pytest.raises(CalculationError, match=said.replace("(", r"\(")):
        evaluate(expression)


def _expression(draw: random.Random, depth: int) -> tuple[str, Fraction]:
    """An expression in this grammar, and its value by Python's fractions."""
    if depth == 0 or draw.random() < 0.2:
        digits = draw.choice([str(draw.randint(0, 999)), f"{draw.randint(0, 99)}.{draw.randint(0, 99):02d}"])
        return digits, Fraction(digits)
    left, a = _expression(draw, depth - 1)
    if draw.random() < 0.2:
        return f"-({left})", -a
    right, b = _expression(draw, depth - 1)
    sign = draw.choice("+-*/" if b else "+-*")
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
    space = draw.choice(["", " "])
    return f"({left}){space}{sign}{space}({right})", value


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_it_agrees_with_fractions(seed: int, depth: int) -> None:
    expression, value = _expression(random.Random(seed), depth)
    assert evaluate(expression) == value


@given(st.text(alphabet="0123456789.,+-*/%^()!eE√ \tpisqrtmoxf_×", max_size=40))
def test_any_text_has_a_value_or_says_why(text: str) -> None:
    with suppress(CalculationError):
        assert told(evaluate(text))


@given(st.fractions())
def test_what_is_told_is_the_number(value: Fraction) -> None:
    text = told(value)
    digits = text.split()[0]
    if "rounded" in text:
        assert Fraction(Decimal(digits)) == pytest.approx(value, rel=1e-13)
        assert "exactly" not in text or Fraction(text.split("exactly ")[1].rstrip(")")) == value
    else:
        assert Fraction(digits) == value


def test_the_tool_has_no_effect_and_is_trusted() -> None:
    tool = calculator()
    assert tool.effects == frozenset()
    assert tool.trusted
    assert tool.run(expression="6 * 7") == "42"
