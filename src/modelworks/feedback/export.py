"""Judgements as training data: preference pairs for reward models and DPO, rated completions for KTO.

Every row is one of `data.formats`. Beside it stand columns that training does not need and that a report, or a reward
model for a group, may: who judged, their group, how the votes fell, the models that answered.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from modelworks.core.errors import ConfigError, DataError
from modelworks.core.paths import atomic_file
from modelworks.feedback.store import ASPECTS, Answer, Comparison, Judgement, Store

By = Literal["comparison", "group", "judgement"]


@dataclass(kw_only=True)
class Exported:
    """What became of the judgements."""

    rows: int = 0
    judgements: int = 0
    """Those of the groups that were asked for."""
    skips: int = 0
    """Judgements that are no opinion."""
    ties: int = 0
    """Rows left out since neither answer was preferred."""
    undecided: int = 0
    """Rows left out since as many votes stood against each other."""
    unrated: int = 0
    """Judgements without the ratings that were asked for."""

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def export_pairs(store: Store, out: str | Path, *, by: By = "comparison", groups: Sequence[str] = ()) -> Exported:
    """Write prompt, chosen and rejected as JSONL; the file appears whole or not at all.

    A row is what most of a comparison's votes say ("comparison"), what most of each group's say ("group"), or one
    judgement ("judgement"). A row's weight is the lead of the winner, (for - against) / all: so a row of many votes
    pulls a reward model where its single votes would. `groups` leaves out judgements of others.

    Raises ConfigError for a group that nobody is of, and DataError where no row is left.
    """
    report = Exported()
    rows = _pairs(store.comparisons(), _of_groups(store, groups, report), by, report)
    return _written(out, rows, report)


def export_ratings(
    store: Store, out: str | Path, *, aspects: Sequence[str] = ASPECTS, groups: Sequence[str] = ()
) -> Exported:
    """Write prompt, completion and label as JSONL, a row for each answer that was rated (KTO).

    An answer's score is the mean of its ratings for `aspects`, over aspects and then over people. Above 3, the middle
    of the scale, it is labelled good, below 3 bad, and at 3 it is left out as a tie.

    Raises ConfigError for an aspect that is none or a group that nobody is of, and DataError where no row is left.
    """
    if unknown := [aspect for aspect in aspects if aspect not in ASPECTS]:
        raise ConfigError(f"{unknown[0]!r} is not what answers are rated for: {', '.join(ASPECTS)}")
    report = Exported()
    rows = _ratings(store.comparisons(), _of_groups(store, groups, report), aspects, report)
    return _written(out, rows, report)


def _of_groups(store: Store, groups: Sequence[str], report: Exported) -> dict[int, list[Judgement]]:
    """The opinions by comparison, of the groups that were asked for."""
    judgements = store.judgements()
    known = {each.group for each in judgements}
    for group in groups:
        if group not in known:
            named = ", ".join(sorted(filter(None, known))) or "none"
            raise ConfigError(f"{store.path}: nobody is of the group {group!r}; there are: {named}")
    found: defaultdict[int, list[Judgement]] = defaultdict(list)
    for each in judgements:
        if groups and each.group not in groups:
            continue
        report.judgements += 1
        if each.choice == "skip":
            report.skips += 1
        else:
            found[each.comparison].append(each)
    return found


def _written(out: str | Path, rows: Iterator[dict[str, Any]], report: Exported) -> Exported:
    lines = [json.dumps(row, ensure_ascii=False).encode(errors="replace").decode() + "\n" for row in rows]
    report.rows = len(lines)
    if not lines:
        counted = ", ".join(f"{value} {name}" for name, value in report.to_json().items() if value and name != "rows")
        raise DataError(f"there is nothing to export ({counted or 'nothing was judged yet'}); {out} was not written")
    with atomic_file(Path(out)) as file:
        file.writelines(lines)
    return report


def _pairs(
    comparisons: Sequence[Comparison], judged: Mapping[int, list[Judgement]], by: By, report: Exported
) -> Iterator[dict[str, Any]]:
    for comparison in comparisons:
        for votes in _ballots(judged.get(comparison.id, []), by):
            counts = Counter(each.choice for each in votes)
            (winner, most), *others = counts.most_common()
            if others and others[0][1] == most:
                report.undecided += 1
            elif winner == "tie":
                report.ties += 1
            else:
                yield _pair(comparison, winner == "first", counts, votes)


_KEYS: Mapping[By, Callable[[Judgement], str]] = {
    "comparison": lambda _: "",
    "group": lambda judgement: judgement.group,
    "judgement": lambda judgement: judgement.annotator,
}


def _ballots(judgements: Sequence[Judgement], by: By) -> Iterator[list[Judgement]]:
    """The judgements of one comparison, of those who vote together."""
    ballots: defaultdict[str, list[Judgement]] = defaultdict(list)
    for each in judgements:
        ballots[_KEYS[by](each)].append(each)
    yield from ballots.values()


def _pair(comparison: Comparison, is_first: bool, counts: Counter[Any], votes: Sequence[Judgement]) -> dict[str, Any]:
    sides = comparison.first, comparison.second
    chosen, rejected = sides if is_first else sides[::-1]
    names = ("first", "second") if is_first else ("second", "first")
    pro, contra = (counts[name] for name in names)
    return {
        "prompt": comparison.prompt,
        "chosen": chosen.turns,
        "rejected": rejected.turns,
        "weight": (pro - contra) / counts.total(),
        "votes": {"chosen": pro, "rejected": contra, "tie": counts["tie"]},
        "chosen_model": chosen.model,
        "rejected_model": rejected.model,
        **_about(comparison, votes),
    }


def _about(comparison: Comparison, votes: Sequence[Judgement]) -> dict[str, Any]:
    """Who voted: names where one did, or all of one group."""
    people, groups = {each.annotator for each in votes}, {each.group for each in votes}
    return {
        "annotator": people.pop() if len(people) == 1 else None,
        "group": groups.pop() if len(groups) == 1 else None,
        "comparison": comparison.id,
        "source": comparison.source,
    }


def _ratings(
    comparisons: Sequence[Comparison], judged: Mapping[int, list[Judgement]], aspects: Sequence[str], report: Exported
) -> Iterator[dict[str, Any]]:
    for comparison in comparisons:
        votes = judged.get(comparison.id, [])
        sides: tuple[tuple[str, Answer], ...] = (("first", comparison.first), ("second", comparison.second))
        report.unrated += sum(not any(_rated(each, side, aspects) for side, _ in sides) for each in votes)
        for side, answer in sides:
            rated = [each for each in votes if _rated(each, side, aspects)]
            if not rated:
                continue
            score = fmean(fmean(_rated(each, side, aspects)) for each in rated)
            if score == 3:
                report.ties += 1
                continue
            yield {
                "prompt": comparison.prompt,
                "completion": answer.turns,
                "label": score > 3,
                "score": score,
                "model": answer.model,
                **_about(comparison, rated),
            }


def _rated(judgement: Judgement, side: str, aspects: Sequence[str]) -> list[int]:
    given = judgement.ratings.get(side, {})
    return [given[aspect] for aspect in aspects if aspect in given]
