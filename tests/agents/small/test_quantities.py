"""Numbers, dates, times and units as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.small.quantities import clocks, converted, days, numbers, unit_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a base of 10 and 5.5", [10, 5.5]),
        ("$1,000,000 or 8.5 million", [1_000_000, 8_500_000]),
        ("a = 3, b = -11", [3, -11]),
        ("from 2018-2019", [2018, 2019]),
        ("3 x 10^8 m/s and 1e-3", [3e8, 1e-3]),
        ("twenty-one people, five dogs, two hundred cats", [21, 5, 200]),
        ("the 15th of the 3D films", [15]),
        ("$20k at 298K", [20_000, 298]),
        ("1e999 is no number", []),
        ("none at all", []),
    ],
)
def test_numbers(text: str, values: list[float]) -> None:
    assert [number.value for number in numbers(text)] == pytest.approx(values)


def test_units_and_percent() -> None:
    length, share = numbers("5 km at 3.5%")
    assert (length.unit, share.percent, share.value) == ("km", True, 3.5)
    assert unit_of("Meters") == "meter"
    assert converted(5, "km", "meter") == 5000
    assert converted(90, "minute", "hour") == 1.5
    assert converted(5, "km", "hour") is None


@given(st.text(alphabet="0123456789.,-$% kmMKth/xe^*²", max_size=30))
def test_numbers_stand_where_they_say(text: str) -> None:
    assert all(0 <= number.start < number.end <= len(text) for number in numbers(text))


@pytest.mark.parametrize(
    "text",
    [
        "2023-03-04",
        "March 4, 2023",
        "March 4th 2023",
        "4 March 2023",
        "4th of March, 2023",
        "03/04/2023",
        "Mar 4, 2023",
    ],
)
def test_dates(text: str) -> None:
    (day,) = days(f"On {text} at noon")
    assert day.day.isoformat() == "2023-03-04"
    assert day.forms(f"On {text} at noon")["as written"] == text
    assert day.forms(text)["dd/mm/yyyy"] == "04/03/2023"


def test_what_is_no_date_and_times() -> None:
    assert list(days("2023-02-31 or 13/13/2020 or March")) == []
    assert [clock.text for clock in clocks("11 PM, 12:30 am, 18:45 and 25:00")] == ["23:00", "00:30", "18:45"]
