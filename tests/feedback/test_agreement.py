"""Agreement against the numbers of its literature, an independent computation, and real labels."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.feedback.agreement import (
    Rate,
    cohen_kappa,
    krippendorff_alpha,
    measure,
    model_wins,
    pairwise_agreement,
    position_bias,
)
from modelworks.feedback.store import Answer, Choice, Comparison, Judgement

CHOICE: dict[int, Choice] = {0: "tie", 1: "first", 2: "second"}


def said(comparison: int, annotator: str, choice: Choice, group: str = "", **more: Any) -> Judgement:
    return Judgement(comparison=comparison, annotator=annotator, choice=choice, group=group, **more)


def table(*rows: str) -> list[dict[str, str]]:
    """The units of a table with a row for each annotator; a point is a label that is missing."""
    columns = zip(*(row.split() for row in rows), strict=True)
    return [{str(at): label for at, label in enumerate(column) if label != "."} for column in columns]


# --- Krippendorff -----------------------------------------------------------------------------------------------------


def test_alpha_of_krippendorffs_own_examples() -> None:
    """His paper of 2011, sections A (binary), B (nominal) and C (four observers, missing data)."""
    binary = table("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")
    assert krippendorff_alpha(binary) == pytest.approx(0.095, abs=5e-4)
    nominal = table("a a b b d c c c e d d a", "b a b b b c c c e d d d")
    assert krippendorff_alpha(nominal) == pytest.approx(0.692, abs=5e-4)
    missing = table(
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    assert krippendorff_alpha(missing) == pytest.approx(0.743, abs=5e-4)


def coincidences(units: list[dict[str, str]]) -> float | None:
    """Alpha from the matrix of coincidences, entry by entry, as its definition has it."""
    matrix: Counter[tuple[str, str]] = Counter()
    for labels in units:
        for (a, x), (b, y) in product(labels.items(), repeat=2):
            if a != b:
                matrix[x, y] += 1 / (len(labels) - 1)  # type: ignore[assignment]
    total = sum(matrix.values())
    margin = {x: sum(value for (left, _), value in matrix.items() if left == x) for x, _ in matrix}
    expected = sum(margin[x] * margin[y] for x, y in product(margin, repeat=2) if x != y)
    if not expected:
        return None
    return 1 - (total - 1) * sum(value for (x, y), value in matrix.items() if x != y) / expected


@given(st.lists(st.dictionaries(st.sampled_from("ABCD"), st.sampled_from(["first", "second", "tie"])), max_size=8))
def test_alpha_is_what_its_definition_says(units: list[dict[str, str]]) -> None:
    found, expected = krippendorff_alpha(units), coincidences(units)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected, abs=1e-9)


# --- Cohen ------------------------------------------------------------------------------------------------------------


def test_kappa_of_a_table_worked_by_hand() -> None:
    """20 both yes, 15 both no, 5 and 10 apart: agreement .7, chance .5."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)


def test_kappa_without_a_number() -> None:
    assert cohen_kappa([]) is None
    assert cohen_kappa([("y", "y")] * 3) is None
    assert cohen_kappa([("y", "n")] * 3) == 0


# --- real labels ------------------------------------------------------------------------------------------------------


def test_the_three_annotators_of_pandalm(preference: Path) -> None:
    """Wang et al. 2023, arXiv:2306.05087: kappas of .85, .88 and .86 between the three."""
    rows = json.loads((preference / "pandalm_testset.json").read_text())
    names = ("annotator1", "annotator2", "annotator3")
    judgements = [said(at, name, CHOICE[row[name]]) for at, row in enumerate(rows) for name in names]
    found = measure(judgements)
    assert found.comparisons == 999
    for pair, kappa in {(1, 2): 0.85, (1, 3): 0.88, (2, 3): 0.86}.items():
        a, b = (f"annotator{each}" for each in pair)
        assert found.kappa[f"{a}, {b}"] == pytest.approx(kappa, abs=0.006)
    agree = sum(row[a] == row[b] for row in rows for a, b in (names[:2], names[1:], names[::2]))
    assert found.pairwise == Rate(agree, 3 * 999)
    assert found.opposed == sum({1, 2} <= {row[name] for name in names} for row in rows)
    assert found.alpha == pytest.approx(coincidences([{n: str(row[n]) for n in names} for row in rows]))  # type: ignore[arg-type]
    assert found.notes == ["one group only: groups cannot be compared"]


# --- all of it --------------------------------------------------------------------------------------------------------


def test_groups_that_agree_among_themselves_and_not_with_each_other() -> None:
    judgements = [
        *(said(at, name, "first", "doctors") for at in range(4) for name in ("Ann", "Bob")),
        *(said(at, name, "first" if at else "second", "patients") for at in range(4) for name in ("Cem", "Dee")),
        said(4, "Ann", "tie", "doctors"),
        said(4, "Cem", "first", "patients"),
    ]
    found = measure(judgements)
    assert found.within_groups == {"doctors": Rate(4, 4), "patients": Rate(4, 4)}
    assert found.between_groups == {"doctors, patients": Rate(12, 17)}
    assert found.alpha_in_groups == {"doctors": None, "patients": 1.0}
    assert [(each.comparison, each.distance) for each in found.disputed] == [(0, 1.0), (4, 1.0)]
    assert found.disputed[0].votes == {"doctors": {"first": 2}, "patients": {"second": 2}}
    assert found.opposed == 1
    assert found.notes == []


def test_a_part_of_a_group_that_differs_is_disputed_less() -> None:
    judgements = [said(at, name, "first", "a") for at in (1, 2) for name in "AB"]
    judgements += [said(1, "C", "second", "b"), said(1, "D", "first", "b"), said(2, "C", "second", "b")]
    assert [(each.comparison, each.distance) for each in measure(judgements).disputed] == [(2, 1.0), (1, 0.5)]


def test_position_is_counted_where_it_is_known_and_one_was_preferred() -> None:
    judgements = [
        said(1, "A", "first", shown_first="first"),
        said(2, "A", "first", shown_first="second"),
        said(3, "A", "second", shown_first="second"),
        said(4, "A", "tie", shown_first="first"),
        said(5, "A", "skip", shown_first="first"),
        said(6, "A", "first"),
    ]
    assert position_bias(judgements) == Rate(2, 3)
    shown = measure(judgements).to_json()["shown_first_wins"]
    assert 0 < shown["low"] < 2 / 3 < shown["high"] < 1


def test_speed_and_share_of_each_annotator() -> None:
    judgements = [
        said(1, "A", "first", seconds=2.0),
        said(2, "A", "tie", seconds=4.0),
        said(3, "A", "skip", "late", seconds=9.0),
        said(1, "B", "first"),
    ]
    a, b = measure(judgements).annotators
    assert (a.name, a.group, a.judgements, a.ties, a.skips, a.median_seconds) == ("A", "late", 3, 1, 1, 4.0)
    assert b.median_seconds is None


def test_a_preference_for_what_is_rated_lower_is_counted() -> None:
    low, high = {"helpfulness": 1, "accuracy": 3}, {"helpfulness": 5}
    judgements = [
        said(1, "A", "first", ratings={"first": low, "second": high}),
        said(2, "A", "second", ratings={"first": low, "second": high}),
        said(3, "A", "second", ratings={"first": high, "second": low}),
        said(4, "A", "tie", ratings={"first": high, "second": low}),
        said(5, "A", "first", ratings={"first": {"accuracy": 1}, "second": {"safety": 5}}),
    ]
    assert measure(judgements).against_ratings == 2


@pytest.mark.parametrize(
    ("judgements", "note"),
    [
        ([], "nothing was judged yet"),
        ([said(1, "A", "skip")], "nothing was judged yet"),
        ([said(1, "A", "first"), said(2, "A", "tie")], "one annotator only (A): agreement needs two"),
        ([said(1, "A", "first"), said(2, "B", "tie")], "no comparison was judged by two"),
    ],
)
def test_what_cannot_be_measured_says_so_and_is_no_nan(judgements: list[Judgement], note: str) -> None:
    found = measure(judgements)
    assert (found.alpha, found.pairwise.value) == (None, None)
    assert found.notes[0].startswith(note)
    assert "NaN" not in json.dumps(found.to_json())


def test_wins_are_counted_by_model_whichever_answered_first() -> None:
    def answered(index: int, first: str, second: str) -> Comparison:
        sides = (Answer(turns=f"{name} says", model=name) for name in (first, second))
        return Comparison(prompt="p", id=index, **dict(zip(("first", "second"), sides)))

    comparisons = [answered(1, "a", "b"), answered(2, "b", "a"), answered(3, "a", "a"), answered(4, "b", "c")]
    judgements = [
        *(said(1, name, "first") for name in "AB"),
        *(said(2, name, choice) for name, choice in (("A", "first"), ("B", "second"), ("C", "tie"), ("D", "skip"))),  # type: ignore[arg-type]
        said(3, "A", "first"),
        said(4, "A", "second"),
    ]
    assert model_wins(comparisons, judgements) == {("a", "b"): Rate(3, 4), ("b", "c"): Rate(0, 1)}


def test_agreement_of_none_is_none() -> None:
    assert pairwise_agreement([{"A": "x"}]) == Rate(0, 0)
    assert Rate(0, 0).value is None
