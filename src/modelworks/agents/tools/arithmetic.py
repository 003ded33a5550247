"""Arithmetic of the calculator: fractions where a number is one, and decimals of 50 digits where it is not.

Everything is bounded before it is computed: no number has more than about 4,900 digits.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Final, TypeAlias

from modelworks.core.errors import ModelworksError

Number: TypeAlias = Fraction | Decimal
"""A Decimal is an approximation."""
MOST_DIGITS: Final = 4096
_MOST_BITS: Final = 1 << 14  # of a numerator or denominator
_FACTORIAL: Final = 1500
CONTEXT: Final = decimal.Context(prec=50, Emax=9999, Emin=-9999, traps=[decimal.InvalidOperation, decimal.Overflow])


class CalculationError(ModelworksError):
    """An expression that is none, or that has no value; the message says where and why, to the model."""


def approximate(value: Number) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(value.numerator) / Decimal(value.denominator)


def sized(value: Number) -> Number:
    if isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise CalculationError("the result is too large")
    return value


def _both(left: Number, right: Number) -> tuple[Fraction, Fraction] | tuple[Decimal, Decimal]:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left, right
    return approximate(left), approximate(right)


def add(left: Number, right: Number) -> Number:
    a, b = _both(left, right)
    return a + b  # type: ignore[operator]  # both are of one kind


def multiply(left: Number, right: Number) -> Number:
    a, b = _both(left, right)
    return a * b  # type: ignore[operator]


def divide(left: Number, right: Number) -> Number:
    if right == 0:
        raise CalculationError("division by zero")
    a, b = _both(left, right)
    return a / b  # type: ignore[operator]


def _floor(value: Number) -> Fraction:
    return Fraction(math.floor(value))


def floor_divide(left: Number, right: Number) -> Number:
    return _floor(divide(left, right))


def remainder(left: Number, right: Number) -> Number:
    """With the sign of the divisor, as mathematicians have it."""
    return add(left, -multiply(right, floor_divide(left, right)))


def power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if base == 0 and exponent < 0:
            raise CalculationError("division by zero")
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(base) != 1 and base != 0 and abs(exponent.numerator) * max(1, bits - 1) > _MOST_BITS:
                raise CalculationError("the power is too large")
            return base**exponent.numerator if abs(base) != 1 else base ** (exponent.numerator % 2)
        if exponent.denominator.bit_length() <= 10:
            found = root(base, Fraction(exponent.denominator))
            if isinstance(found, Fraction):
                return power(found, Fraction(exponent.numerator))
    close, close_exponent = approximate(base), approximate(exponent)
    if close < 0 and close_exponent != close_exponent.to_integral_value():
        raise CalculationError("a root of a negative number is not a real number")
    return close**close_exponent


def root(value: Number, degree: Number) -> Number:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 1 <= degree <= 1000:
        raise CalculationError("the degree of a root is a whole number from 1 to 1000")
    n = degree.numerator
    if value < 0:
        if n % 2 == 0:
            raise CalculationError("a root of a negative number is not a real number")
        return -root(-value, degree)
    if isinstance(value, Fraction):
        above, below = _whole_root(value.numerator, n), _whole_root(value.denominator, n)
        if above**n == value.numerator and below**n == value.denominator:
            return Fraction(above, below)
    close = approximate(value)
    if n == 2 or not close:
        return close.sqrt()
    return (close.ln() / n).exp()


def _whole_root(value: int, n: int) -> int:
    """The largest whole number whose nth power is not above a value, by halving."""
    if n == 2:
        return math.isqrt(value)
    low, high = 0, 1 << (value.bit_length() // n + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**n <= value else (low, middle)
    return low


# --- functions --------------------------------------------------------------------------------------------------------


def _integer(value: Number, what: str, most: int | None = None) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise CalculationError(f"{what} takes whole numbers")
    if most is not None and not 0 <= value <= most:
        raise CalculationError(f"{what} takes whole numbers from 0 to {most:,}")
    return value.numerator


def _by_float(function: Callable[[float], float]) -> Callable[[Number], Number]:
    """Good to about 15 digits."""

    def call(value: Number) -> Number:
        try:
            return Decimal(function(float(value)))
        except (ValueError, OverflowError) as error:
            raise CalculationError("the function has no value there") from error

    return call


def _zero_is_exact(function: Callable[[Number], Number], at_zero: int) -> Callable[[Number], Number]:
    return lambda value: Fraction(at_zero) if value == 0 and isinstance(value, Fraction) else function(value)


def _ln(value: Number) -> Number:
    if value <= 0:
        raise CalculationError("a logarithm takes a number above 0")
    return Fraction(0) if value == 1 and isinstance(value, Fraction) else approximate(value).ln()


def _log(value: Number, base: Number = Fraction(10)) -> Number:
    if base <= 0 or base == 1:
        raise CalculationError("the base of a logarithm is above 0 and not 1")
    close = divide(_ln(value), _ln(base))
    if isinstance(value, Fraction) and isinstance(base, Fraction):
        nearest = Fraction(round(close))
        if abs(nearest) <= 10_000 and abs(nearest) * max(
            base.numerator.bit_length(), base.denominator.bit_length()
        ) <= (2 * _MOST_BITS):
            power = base**nearest.numerator
            if power == value:
                return nearest
    return close


def _round(value: Number, digits: Number = Fraction(0)) -> Number:
    """Half away from zero, as people do."""
    places = _integer(digits, "round")
    if abs(places) > 1000:
        raise CalculationError("round takes at most 1,000 digits")
    scale = Fraction(10) ** places
    scaled = (Fraction(value) if isinstance(value, Decimal) else value) * scale
    return Fraction((-1 if scaled < 0 else 1) * math.floor(abs(scaled) + Fraction(1, 2))) / scale


def _sum(*values: Number) -> Number:
    total: Number = Fraction(0)
    for value in values:
        total = add(total, value)
    return total


def factorial(value: Number) -> Fraction:
    return Fraction(math.factorial(_integer(value, "factorial", _FACTORIAL)))


def _choose(what: str, function: Callable[[int, int], int]) -> Callable[[Number, Number], Number]:
    def call(n: Number, k: Number) -> Number:
        return Fraction(function(_integer(n, what, _FACTORIAL), _integer(k, what, _FACTORIAL)))

    return call


_PI: Final = Decimal("3.14159265358979323846264338327950288419716939937511")
CONSTANTS: Final[Mapping[str, Callable[[], Number]]] = {
    "pi": lambda: _PI,
    "π": lambda: _PI,
    "tau": lambda: 2 * _PI,
    "e": lambda: Decimal(1).exp(),
}
FUNCTIONS: Final[Mapping[str, tuple[Callable[..., Number], int, int]]] = {
    # function, fewest and most arguments
    "sqrt": (lambda x: root(x, Fraction(2)), 1, 1),
    "cbrt": (lambda x: root(x, Fraction(3)), 1, 1),
    "root": (root, 2, 2),
    "pow": (power, 2, 2),
    "abs": (abs, 1, 1),
    "sign": (lambda x: Fraction((x > 0) - (x < 0)), 1, 1),
    "round": (_round, 1, 2),
    "floor": (_floor, 1, 1),
    "ceil": (lambda x: Fraction(math.ceil(x)), 1, 1),
    "trunc": (lambda x: Fraction(math.trunc(x)), 1, 1),
    "min": (lambda *x: min(x, key=Fraction), 1, 1000),
    "max": (lambda *x: max(x, key=Fraction), 1, 1000),
    "sum": (_sum, 1, 1000),
    "mean": (lambda *x: divide(_sum(*x), Fraction(len(x))), 1, 1000),
    "average": (lambda *x: divide(_sum(*x), Fraction(len(x))), 1, 1000),
    "mod": (remainder, 2, 2),
    "gcd": (lambda *x: Fraction(math.gcd(*(_integer(each, "gcd") for each in x))), 1, 1000),
    "lcm": (lambda *x: Fraction(math.lcm(*(_integer(each, "lcm") for each in x))), 1, 100),
    "factorial": (factorial, 1, 1),
    "comb": (_choose("comb", math.comb), 2, 2),
    "perm": (_choose("perm", math.perm), 2, 2),
    "exp": (_zero_is_exact(lambda x: approximate(x).exp(), 1), 1, 1),
    "ln": (_ln, 1, 1),
    "log": (_log, 1, 2),
    "log10": (_log, 1, 1),
    "log2": (lambda x: _log(x, Fraction(2)), 1, 1),
    "sin": (_zero_is_exact(_by_float(math.sin), 0), 1, 1),
    "cos": (_zero_is_exact(_by_float(math.cos), 1), 1, 1),
    "tan": (_zero_is_exact(_by_float(math.tan), 0), 1, 1),
    "asin": (_zero_is_exact(_by_float(math.asin), 0), 1, 1),
    "acos": (_by_float(math.acos), 1, 1),
    "atan": (_zero_is_exact(_by_float(math.atan), 0), 1, 1),
    "degrees": (lambda x: divide(multiply(x, Fraction(180)), _PI), 1, 1),
    "radians": (lambda x: divide(multiply(x, _PI), Fraction(180)), 1, 1),
}
