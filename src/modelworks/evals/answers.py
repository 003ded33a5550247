"""What number an answer in words comes to, as GSM8K's problems ask (Cobbe et al. 2021, arXiv:2110.14168).

Numbers are exact fractions, so that "1,000", "$1000.00" and "1000 apples" are the same answer.
"""

from __future__ import annotations

import re
from fractions import Fraction

# Thousands have their commas or none; "1,2,3" is three numbers. A fraction is of plain whole numbers.
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    r"(?<!\d)[$€£]?(?P<sign>[-−])?[$€£]?"
    rf"(?:(?P<over>\d+)/(?P<under>\d+)(?![\d/])|(?P<whole>{_PLAIN})?(?P<part>\.\d+)?)"
)
# Where an answer says that it is one; the last such place counts.
_MARKS = re.compile(r"####|\\boxed\{|\banswer(?:\s+is)?\s*[:=]?", re.IGNORECASE)
_CALCULATION = re.compile(r"<<[^<>]*>>")


def numbers(text: str) -> list[Fraction]:
    """All numbers of a text in order: signs, thousands' commas, decimals, a/b; currency and units aside.

    A hyphen right after a word, digit or bracket is none of a number's: "16-3" has 16 and 3.
    """
    found = []
    for match in _NUMBER.finditer(text):
        if match["over"] is not None:
            if int(match["under"]) == 0:
                continue
            value = Fraction(int(match["over"]), int(match["under"]))
        elif match["whole"] is not None or match["part"] is not None:
            value = Fraction((match["whole"] or "0").replace(",", "") + (match["part"] or ""))
        else:
            continue
        before = text[: match.start()][-1:]
        is_negative = match["sign"] is not None and not (before.isalnum() or before in (")", "]", "}"))
        found.append(-value if is_negative else value)
    return found


def final_number(text: str) -> Fraction | None:
    """The number that an answer ends on: after its last "####", \\boxed or "answer is", else its last; or none."""
    text = _CALCULATION.sub("", text)
    for mark in reversed(list(_MARKS.finditer(text))):
        if after := numbers(text[mark.end() :].split("\n")[0]):
            return after[0]
    found = numbers(text)
    return found[-1] if found else None


def is_same_number(answer: str, reference: str) -> bool:
    """Whether both come to the same number; an answer without a number is wrong."""
    found = final_number(answer)
    return found is not None and found == final_number(reference)


def without_calculations(solution: str) -> str:
    """A GSM8K solution in plain words, without its calculator's <<16-3=13>>."""
    return _CALCULATION.sub("", solution)
