"""A calculator that is exact where numbers can be, and says so where they cannot. Nothing is ever evaluated as code.

    expression = term (("+" | "-") term)*
    term       = factor (("*" | "/" | "//" | "mod" | "%" factor | "of" | nothing before "(" or a name) factor)*
    factor     = ("+" | "-") factor | power
    power      = postfix (("^" | "**") factor)?
    postfix    = atom ("!" | "%")*
    atom       = number | constant | function "(" expression ("," expression)* ")" | "(" expression ")" | "√" atom

Numbers are fractions; a value of a function that no fraction equals is a decimal of 50 digits, from which 15 are told.
A % that a number, a name or a bracket follows is the remainder, any other is a hundredth.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Final

from modelworks.agents.tool import Tool, tool
from modelworks.agents.tools import arithmetic
from modelworks.agents.tools.arithmetic import CONSTANTS, CONTEXT, FUNCTIONS, MOST_DIGITS, CalculationError, Number

_LENGTH: Final = 2000  # characters
_DEPTH: Final = 60
_TOLD: Final = 15  # digits of an approximation
_EXACT_DIGITS: Final = 60  # of a decimal that is told in full, unless it is whole
_NUMBER: Final = re.compile(r"(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_GROUPED: Final = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?")
_NAME: Final = re.compile(r"[^\W\d]\w*")
_SIGNS: Final = str.maketrans({"×": "*", "·": "*", "∙": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})


def calculator() -> Tool:
    """A tool that computes."""

    @tool(name="calculator", effects=(), isolated=True, timeout=10.0, trusted=True)
    def run(expression: str) -> str:
        """Compute an arithmetic expression exactly.

        Has + - * / // % ^ and brackets; 15% of 80; sqrt, root(x, n), abs, round(x, digits), floor, ceil, min, max, sum,
        mean, gcd, lcm, factorial, comb, perm, exp, ln, log(x, base), sin, cos, tan (radians), degrees, radians, pi, e.

        Args:
            expression: Such as "(12.5 + 7) * 3" or "15% of 80". Only numbers, no units.
        """
        return told(evaluate(expression))

    return run


def evaluate(expression: str) -> Number:
    """The value of an expression: a `Fraction` that is exact, or a `Decimal` that is close.

    Raises `CalculationError` for what is no expression, has no value, or is larger than about 4,900 digits.
    """
    if len(expression) > _LENGTH:
        raise CalculationError(f"the expression is longer than {_LENGTH:,} characters")
    with decimal.localcontext(CONTEXT):
        try:
            return _Parser(expression.translate(_SIGNS)).whole()
        except ZeroDivisionError as error:
            raise CalculationError("division by zero") from error
        except decimal.Overflow as error:
            raise CalculationError("the result is too large") from error
        except decimal.InvalidOperation as error:
            raise CalculationError("the result is not a real number, or not known well enough") from error


def told(value: Number) -> str:
    """A value in digits: exact where they end soon enough, and with the fraction where they do not."""
    if isinstance(value, Decimal):
        return f"{_rounded(value)} (rounded)" if value else "0 (rounded)"
    if value.denominator == 1:
        return _whole(value.numerator)
    rest = value.denominator
    twos = (rest & -rest).bit_length() - 1
    rest >>= twos
    fives = 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest == 1 and places <= _EXACT_DIGITS:
        digits = _whole(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
        return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    with decimal.localcontext(CONTEXT):
        close = _rounded(arithmetic.approximate(value))
    exact = f"{value.numerator}/{value.denominator}" if value.denominator.bit_length() <= 100 else ""
    return f"{close} (rounded; exactly {exact})" if exact else f"{close} (rounded)"


def _whole(number: int) -> str:
    return format(Decimal(number), "f")  # str(int) refuses more than 4,300 digits


def _rounded(value: Decimal) -> str:
    with decimal.localcontext(CONTEXT) as context:
        context.prec = _TOLD
        short = (+value).normalize()
    return format(short, "f") if -7 < short.adjusted() < 21 else format(short, "e")


# --- the parser -------------------------------------------------------------------------------------------------------


class _Parser:
    """By descent, without a list of tokens: what a comma or a % means depends on where it stands."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        self._in_call = False  # where commas part arguments, and do not group digits

    def whole(self) -> Number:
        value = self._expression()
        if self._rest():
            raise self._error()
        return value

    def _rest(self) -> str:
        """What is left, its blanks skipped."""
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1
        return self._text[self._at :]

    def _takes(self, *signs: str) -> str:
        """The first of some signs that comes next, which is read then; "" for none."""
        rest = self._rest()
        for sign in signs:
            if rest.startswith(sign) and not (sign.isalpha() and (rest[len(sign) :] or " ")[0].isalnum()):
                self._at += len(sign)
                return sign
        return ""

    def _error(self) -> CalculationError:
        rest = self._rest()
        if not rest:
            return CalculationError("the expression ends too early")
        return CalculationError(f"at character {self._at + 1}: {rest[:20]!r} is not expected")

    def _expression(self) -> Number:
        value = self._term()
        while sign := self._takes("+", "-"):
            right = self._term()
            value = arithmetic.sized(arithmetic.add(value, right if sign == "+" else -right))
        return value

    def _term(self) -> Number:
        value = self._factor()
        while True:
            sign = self._takes("//", "*", "/", "mod", "of") or self._takes_remainder()
            if sign in ("*", "of"):
                value = arithmetic.multiply(value, self._factor())
            elif sign == "/":
                value = arithmetic.divide(value, self._factor())
            elif sign == "//":
                value = arithmetic.floor_divide(value, self._factor())
            elif sign in ("mod", "%"):
                value = arithmetic.remainder(value, self._factor())
            elif (rest := self._rest()).startswith(("(", "√")) or _NAME.match(rest):  # 2(3 + 4), 2 pi
                value = arithmetic.multiply(value, self._power())
            else:
                return value
            value = arithmetic.sized(value)

    def _takes_remainder(self) -> str:
        rest = self._rest()
        if not rest.startswith("%"):
            return ""
        after = rest[1:].lstrip()
        if not after or not (after[0].isalnum() or after[0] in "(.√") or re.match(r"(of|mod)\b", after):
            return ""
        self._at += 1
        return "%"

    def _factor(self) -> Number:
        negative = False
        while sign := self._takes("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Number:
        base = self._postfix()
        if not self._takes("^", "**"):
            return base
        with_sign = self._nested(self._factor)  # to the right first: 2^3^2 = 2^9
        return arithmetic.sized(arithmetic.power(base, with_sign))

    def _postfix(self) -> Number:
        value = self._atom()
        while True:
            if self._rest().startswith("!") and not self._rest().startswith("!="):
                self._at += 1
                value = arithmetic.factorial(value)
            elif self._rest().startswith("%") and not self._is_remainder():
                self._at += 1
                value = arithmetic.divide(value, Fraction(100))
            else:
                return value

    def _is_remainder(self) -> bool:
        at = self._at
        found = self._takes_remainder()
        self._at = at
        return bool(found)

    def _atom(self) -> Number:
        rest = self._rest()
        if self._takes("("):
            return self._bracket()
        if self._takes("√"):
            return arithmetic.sized(arithmetic.root(self._nested(self._atom), Fraction(2)))
        found = (not self._in_call and _GROUPED.match(rest)) or _NUMBER.match(rest)
        if found:
            self._at += found.end()
            return self._number(found[0])
        if name := _NAME.match(rest):
            return self._named(name[0])
        raise self._error()

    def _number(self, text: str) -> Fraction:
        plain = text.replace(",", "").replace("_", "")
        power = re.search(r"[eE]([+-]?\d+)$", plain)
        if power and abs(int(power[1])) > MOST_DIGITS:
            raise CalculationError(f"{text} is too large or too small")
        return Fraction(plain)

    def _bracket(self) -> Number:
        outside, self._in_call = self._in_call, False
        value = self._nested(self._expression)
        self._in_call = outside
        if not self._takes(")"):
            raise self._error()
        return value

    def _named(self, name: str) -> Number:
        lower = name.lower()
        if lower in CONSTANTS:
            self._at += len(name)
            return CONSTANTS[lower]()
        if lower not in FUNCTIONS:
            raise CalculationError(f"{name!r} is not known; there are {', '.join([*FUNCTIONS, *CONSTANTS])}")
        self._at += len(name)
        if not self._takes("("):
            raise CalculationError(f"{name} takes its arguments in brackets")
        outside, self._in_call = self._in_call, True
        arguments = [self._nested(self._expression)]
        while self._takes(",", ";"):
            arguments.append(self._nested(self._expression))
        self._in_call = outside
        if not self._takes(")"):
            raise self._error()
        function, fewest, most = FUNCTIONS[lower]
        if not fewest <= len(arguments) <= most:
            expected = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise CalculationError(f"{name} takes {expected} arguments, not {len(arguments)}")
        return arithmetic.sized(function(*arguments))

    def _nested(self, parse: Callable[[], Number]) -> Number:
        self._depth += 1
        if self._depth > _DEPTH:
            raise CalculationError("the expression is nested too deeply")
        value = parse()
        self._depth -= 1
        return value
