"""Numbers as their cells show them."""

from __future__ import annotations

import pytest

from modelworks.data.documents.office import shown_number


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        (5, "General", "5"),
        (3.0, "General", "3"),
        (0.1 + 0.2, "General", "0.3"),
        (1234567.891, "#,##0.00", "1,234,567.89"),
        (0.125, "0%", "12%"),
        (0.125, "0.0%", "12.5%"),
        (2.5, "0.00", "2.50"),
        (2.5, "0.0##", "2.5"),
        (1337, '"$"#,##0.00', "$1,337.00"),
        (1337, "[$€-407] #,##0", "€ 1,337"),
        (-5, "0.0;(0.0)", "(5.0)"),
        (-5, "0.0;[Red]-0.0", "-5.0"),
        (12, '0" kg"', "12 kg"),
        (1e20, "General", "1e+20"),
        (1234, "0.00E+00", "1234"),
        ("text", "0.0", "text"),
        (float("inf"), "0", "inf"),
    ],
)
def test_shown_number(value: float | str, code: str, shown: str) -> None:
    assert shown_number(value, code) == shown
