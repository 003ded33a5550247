"""Numbers, dates, times and units as people write them, in the form that tools want."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

_SMALL: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORDS: Final[Mapping[str, int]] = (
    {word: at for at, word in enumerate(_SMALL)}
    | {word: 10 * at for at, word in enumerate(_TENS, 2)}
    | {"hundred": 100, "dozen": 12}
)
_SCALES: Final[Mapping[str, int]] = {
    "hundred": 100,
    "thousand": 1_000,
    "k": 1_000,
    "million": 10**6,
    "m": 10**6,
    "billion": 10**9,
    "bn": 10**9,
    "trillion": 10**12,
}
_NUMBER: Final = re.compile(
    r"(?<![\w.])(?<![A-Za-z)]\^)(?P<sign>[-−+](?=[\d.]))?[$€£]?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?P<exponent>[eE][-+]?\d+|\s?[x×*]\s?10\^\(?-?\d+\)?)?"
    r"(?:(?P<percent>\s?%|\s?percent\b)|(?P<scale>\s?(?:hundred|thousand|million|billion|trillion)\b|(?:(?<=\d)[kM]|(?<=[$€£]\d\d\d)K|(?<=[$€£]\d\d)K|(?<=[$€£]\d)K)\b))?"
    r"(?P<unit>\s?(?:°\s?)?[A-Za-zµ²³/]+(?:\^?[23])?)?"
)
_WORDED: Final = re.compile(
    rf"\b(?P<tens>{'|'.join(_TENS)})(?:[- ](?P<ones>{'|'.join(_SMALL[1:10])}))?\b"
    rf"|\b(?P<small>{'|'.join(_SMALL)}|dozen)\b(?:\s(?P<scale>hundred|thousand|million|billion))?",
    re.IGNORECASE,
)

# --- units: of a quantity, each with what it is in the first of its row -----------------------------------------------

_UNITS: Final[tuple[Mapping[str, float], ...]] = (
    {"m": 1, "meter": 1, "metre": 1, "km": 1e3, "kilometer": 1e3, "kilometre": 1e3, "cm": 1e-2, "centimeter": 1e-2,
     "mm": 1e-3, "millimeter": 1e-3, "mile": 1609.344, "mi": 1609.344, "foot": 0.3048, "feet": 0.3048, "ft": 0.3048,
     "inch": 0.0254, "inche": 0.0254, "yard": 0.9144},
    {"g": 1, "gram": 1, "kg": 1e3, "kilogram": 1e3, "mg": 1e-3, "milligram": 1e-3, "lb": 453.59237, "pound": 453.59237,
     "ton": 1e6, "tonne": 1e6, "ounce": 28.349523125, "oz": 28.349523125},
    {"s": 1, "sec": 1, "second": 1, "ms": 1e-3, "millisecond": 1e-3, "min": 60, "minute": 60, "h": 3600, "hr": 3600,
     "hour": 3600, "day": 86400, "week": 604800},
    {"l": 1, "liter": 1, "litre": 1, "ml": 1e-3, "milliliter": 1e-3, "gallon": 3.785411784},
    {"pa": 1, "pascal": 1, "kpa": 1e3, "kilopascal": 1e3, "mpa": 1e6},
    {"j": 1, "joule": 1, "kj": 1e3, "kilojoule": 1e3},
    {"w": 1, "watt": 1, "kw": 1e3, "kilowatt": 1e3},
)  # fmt: skip


def unit_of(word: str) -> str:
    """A unit as the table has it: singular, lower case; "" for a word that is none."""
    word = word.strip().strip("°. ").lower()
    for name in (word, word.removesuffix("s")):
        if any(name in row for row in _UNITS):
            return name
    return ""


def converted(value: float, unit: str, wanted: str) -> float | None:
    """A quantity in another unit; None where the two do not measure the same. Exact where the factor is."""
    for row in _UNITS:
        if unit in row and wanted in row:
            made = value * row[unit] / row[wanted]
            return round(made, 9)
    return None


# --- numbers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text: `text[start:end]` is the digits or words with sign, scale and percent, without the unit."""

    value: float
    start: int
    end: int
    unit: str = ""
    """As `unit_of` has it."""
    percent: bool = False
    worded: bool = False


def numbers(text: str) -> Iterator[Number]:
    """The numbers of a text in order: "1,000", "-2.5", "8.5 million", "5%", "3 x 10^8", "twenty-one"."""
    found = [*_digits(text), *_worded(text)]
    yield from sorted(found, key=lambda number: number.start)


def _digits(text: str) -> Iterator[Number]:
    for match in _NUMBER.finditer(text):
        value = float(match["digits"].replace(",", ""))
        end = match.end("digits")
        if exponent := match["exponent"]:
            power = re.findall(r"-?\d+", exponent)[-1]
            value, end = float(f"{value}e{power}"), match.end("exponent")
        scale = (match["scale"] or "").strip().lower()
        if scale:
            value, end = value * _SCALES[scale], match.end("scale")
        if not math.isfinite(value):
            continue
        if match["percent"]:
            end = match.end("percent")
        if match["sign"] in ("-", "−") and not _is_range(text, match.start("sign")):
            value = -value
        start = match.start("sign") if match["sign"] else match.start("digits")
        unit = unit_of(match["unit"] or "")
        if (match["unit"] or "").strip().lower() in ("st", "nd", "rd", "th"):
            end = match.end("unit")
        elif match["unit"] and not match["unit"][0].isspace() and not unit and not _is_symbol(match["unit"]):
            continue  # "3D", "5G": a name
        yield Number(round(value, 12), start, end, unit, bool(match["percent"]))


def _is_symbol(unit: str) -> bool:
    """Whether letters right behind digits can be a unit that the table does not have."""
    return len(unit) <= 4 and unit.lower() not in ("d", "x")


def _is_range(text: str, at: int) -> bool:
    return text[:at].rstrip()[-1:].isdigit()


def _worded(text: str) -> Iterator[Number]:
    for match in _WORDED.finditer(text):
        if match["tens"]:
            value = _WORDS[match["tens"].lower()] + _WORDS.get((match["ones"] or "zero").lower(), 0)
        else:
            value = _WORDS[match["small"].lower()] * _SCALES.get((match["scale"] or "").lower(), 1)
        following = re.match(r"\s+([A-Za-z]+)", text[match.end() :])
        yield Number(value, match.start(), match.end(), unit_of(following[1]) if following else "", worded=True)


# --- dates and times --------------------------------------------------------------------------------------------------

_MONTHS: Final = "january february march april may june july august september october november december".split()
_MONTH: Final = "|".join(f"{name}|{name[:3]}" for name in _MONTHS)
_DATES: Final = (
    re.compile(r"\b(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})\b"),
    re.compile(r"\b(?P<y>\d{4})/(?P<m>\d{1,2})/(?P<d>\d{1,2})\b"),
    re.compile(r"\b(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})\b"),
    re.compile(rf"\b(?P<m>{_MONTH})\.?\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s*(?<!\d)(?P<y>\d{{4}})\b", re.IGNORECASE),
    re.compile(rf"\b(?P<y>\d{{4}})\s+(?P<m>{_MONTH})\.?\s+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\b", re.IGNORECASE),
    re.compile(
        rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m>{_MONTH})\.?,?\s*(?P<y>\d{{4}})\b", re.IGNORECASE
    ),
)
_TIME: Final = re.compile(
    r"\b(?P<h>\d{1,2})(?::(?P<min>\d{2}))?\s?(?P<half>[ap])\.?m\b\.?|\b(?P<h24>\d{1,2}):(?P<min24>\d{2})\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Day:
    """A date in a text."""

    day: date
    start: int
    end: int

    def forms(self, text: str) -> dict[str, str]:
        """How tools want dates, by the name of the form; `text` is what it was read from."""
        day = self.day
        return {
            "as written": text[self.start : self.end],
            "yyyy-mm-dd": day.isoformat(),
            "mm/dd/yyyy": day.strftime("%m/%d/%Y"),
            "dd/mm/yyyy": day.strftime("%d/%m/%Y"),
            "mm-dd-yyyy": day.strftime("%m-%d-%Y"),
            "dd-mm-yyyy": day.strftime("%d-%m-%Y"),
            "yyyy/mm/dd": day.strftime("%Y/%m/%d"),
        }


def days(text: str) -> Iterator[Day]:
    """The dates of a text that have day, month and year; 3/4/2023 is the fourth of March."""
    seen: list[tuple[int, int]] = []
    for form in _DATES:
        for match in form.finditer(text):
            month = match["m"].lower()
            number = int(month) if month.isdigit() else [name[:3] for name in _MONTHS].index(month[:3]) + 1
            if any(start < match.end() and match.start() < end for start, end in seen):
                continue
            try:
                found = date(int(match["y"]), number, int(match["d"]))
            except ValueError:
                continue
            seen.append(match.span())
            yield Day(found, *match.span())


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day in a text."""

    hour: int
    minute: int
    start: int
    end: int

    @property
    def text(self) -> str:
        return f"{self.hour:02}:{self.minute:02}"


def clocks(text: str) -> Iterator[Clock]:
    """The times of a text, such as 11 PM and 18:30, by 24 hours."""
    for match in _TIME.finditer(text):
        hour, minute = int(match["h"] or match["h24"]), int(match["min"] or match["min24"] or 0)
        if match["half"]:
            hour = hour % 12 + (12 if match["half"].lower() == "p" else 0)
        if hour < 24 and minute < 60:
            yield Clock(hour, minute, *match.span())
