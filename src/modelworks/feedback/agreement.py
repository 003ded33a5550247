"""Whether people agree: in pairs, beyond chance, within and between their groups; and what swayed them.

Skips are no opinion and are left out everywhere. Where a number cannot be had, as with one annotator only, it is None
and `notes` says why.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from statistics import fmean, median
from typing import Any, Final

from modelworks.evals.intervals import wilson
from modelworks.feedback.store import CHOICES, Comparison, Judgement

Labels = Mapping[str, str]
"""What each annotator said of one comparison."""

_MOST_DISPUTED: Final = 20


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of trials, with its 95 percent interval (Wilson); None of none."""

    count: int
    of: int

    @property
    def value(self) -> float | None:
        return self.count / self.of if self.of else None

    def to_json(self) -> dict[str, Any]:
        low, high = wilson(self.count, self.of)
        return {"count": self.count, "of": self.of, "rate": self.value, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Annotator:
    """One person's part."""

    name: str
    group: str
    """The latest, where they named several."""
    judgements: int
    ties: int
    skips: int
    median_seconds: float | None
    shown_first_wins: Rate

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shown_first_wins": self.shown_first_wins.to_json()}


@dataclass(frozen=True, slots=True)
class Disputed:
    """A comparison of which groups think differently."""

    comparison: int
    distance: float
    """The largest total variation between two groups' shares of first, second and tie: 1 where they never agree."""
    votes: Mapping[str, Mapping[str, int]]
    """By group, how often each choice was made."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What the judgements of a store say about those who made them."""

    comparisons: int
    """Those with an opinion."""
    choices: Mapping[str, int]
    annotators: Sequence[Annotator]
    pairwise: Rate
    """Of all pairs of opinions on one comparison, those that agree. Pairs share annotators, so no interval is given."""
    alpha: float | None
    """Krippendorff's, nominal: 1 is perfect, 0 what chance gives."""
    kappa: Mapping[str, float | None]
    """Cohen's, by "Ann, Bob", for every two that share comparisons."""
    within_groups: Mapping[str, Rate]
    between_groups: Mapping[str, Rate]
    """By "doctors, patients"."""
    alpha_in_groups: Mapping[str, float | None]
    disputed: Sequence[Disputed]
    """The comparisons that groups disagree on most, worst first."""
    shown_first_wins: Rate
    """Of the decided judgements, those for the answer that stood first: half of them, unless position sways."""
    opposed: int
    """Comparisons of which some prefer the first answer and some the second."""
    against_ratings: int
    """Judgements that prefer an answer and rate it lower than the other."""
    notes: Sequence[str] = field(default=())

    def to_json(self) -> dict[str, Any]:
        def pairs(rates: Mapping[str, Rate]) -> dict[str, Any]:
            return {name: {"count": each.count, "of": each.of, "rate": each.value} for name, each in rates.items()}

        return asdict(self) | {
            "annotators": [each.to_json() for each in self.annotators],
            "pairwise": pairs({"": self.pairwise})[""],
            "within_groups": pairs(self.within_groups),
            "between_groups": pairs(self.between_groups),
            "shown_first_wins": self.shown_first_wins.to_json(),
        }


def measure(judgements: Sequence[Judgement]) -> Agreement:
    """Measure what annotators agree on."""
    opinions = [each for each in judgements if each.choice != "skip"]
    units = by_comparison(opinions)
    groups = {each.annotator: each.group for each in judgements}
    names = sorted(set(groups.values()))
    within, between = _by_groups(units.values(), groups)
    disputed = _disputed(opinions)
    people = {each.annotator for each in opinions}
    shared = sum(len(labels) > 1 for labels in units.values())
    notes = []
    if not opinions:
        notes.append("nothing was judged yet")
    elif len(people) == 1:
        notes.append(f"one annotator only ({next(iter(people))}): agreement needs two")
    elif not shared:
        notes.append("no comparison was judged by two: `--judgements 2` where comparisons are made asks for that")
    if len(people) > 1 and len(names) == 1:
        notes.append("one group only: groups cannot be compared")
    return Agreement(
        comparisons=len(units),
        choices={choice: sum(each.choice == choice for each in judgements) for choice in CHOICES},
        annotators=[_annotator(name, judgements) for name in sorted(groups)],
        pairwise=pairwise_agreement(units.values()),
        alpha=krippendorff_alpha(units.values()),
        kappa=_kappas(units.values(), sorted(people)),
        within_groups=within,
        between_groups=between,
        alpha_in_groups={
            name: krippendorff_alpha(by_comparison(each for each in opinions if each.group == name).values())
            for name in names
        },
        disputed=disputed[:_MOST_DISPUTED],
        shown_first_wins=position_bias(opinions),
        opposed=sum({"first", "second"} <= set(labels.values()) for labels in units.values()),
        against_ratings=sum(map(_is_against_ratings, opinions)),
        notes=notes,
    )


def by_comparison(judgements: Iterable[Judgement]) -> dict[int, dict[str, str]]:
    """What each annotator said of each comparison, without skips."""
    units: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for each in judgements:
        if each.choice != "skip":
            units[each.comparison][each.annotator] = each.choice
    return dict(units)


def pairwise_agreement(units: Iterable[Labels]) -> Rate:
    """Of all pairs of annotators of one unit, those that say the same."""
    agree = of = 0
    for labels in units:
        counts = Counter(labels.values())
        of += len(labels) * (len(labels) - 1) // 2
        agree += sum(count * (count - 1) // 2 for count in counts.values())
    return Rate(agree, of)


def krippendorff_alpha(units: Iterable[Labels]) -> float | None:
    """Krippendorff's alpha for nominal labels, 1 - (n - 1) * sum o_ck / sum n_c n_k over c != k.

    Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C. Annotators may miss units; units with
    one label say nothing. None where no unit has two labels, or all labels are the same, so that chance alone would
    agree always.
    """
    observed = 0.0
    totals: Counter[str] = Counter()
    for labels in units:
        m = len(labels)
        if m < 2:
            continue
        counts = Counter(labels.values())
        totals.update(counts)
        observed += sum(count * (m - count) for count in counts.values()) / (m - 1)
    n = totals.total()
    expected = sum(count * (n - count) for count in totals.values())
    return 1 - (n - 1) * observed / expected if expected else None


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two annotators' labels of the same units (1960, "A coefficient of agreement").

    None without units, and where both always say the same one thing.
    """
    if not pairs:
        return None
    n = len(pairs)
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(left[label] * right[label] for label in left) / n**2
    return (sum(a == b for a, b in pairs) / n - chance) / (1 - chance) if chance < 1 else None


def position_bias(judgements: Iterable[Judgement]) -> Rate:
    """Of decided judgements whose order is known, those for the answer that was shown first."""
    decided = [each for each in judgements if each.shown_first and each.choice in ("first", "second")]
    return Rate(sum(each.choice == each.shown_first for each in decided), len(decided))


def model_wins(comparisons: Iterable[Comparison], judgements: Iterable[Judgement]) -> dict[tuple[str, str], Rate]:
    """For each two models that answered the same prompts, of the decided judgements those for the first of them.

    It names models, so it is not for those who still judge.
    """
    models = {each.id: (each.first.model, each.second.model) for each in comparisons}
    won: Counter[tuple[str, str]] = Counter()
    of: Counter[tuple[str, str]] = Counter()
    for each in judgements:
        first, second = models[each.comparison]
        if first == second or each.choice not in ("first", "second"):
            continue
        key = min(first, second), max(first, second)
        of[key] += 1
        won[key] += (first if each.choice == "first" else second) == key[0]
    return {key: Rate(won[key], of[key]) for key in sorted(of)}


def _kappas(units: Iterable[Labels], people: Sequence[str]) -> dict[str, float | None]:
    pairs: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for labels in units:
        for a, b in combinations(sorted(labels), 2):
            pairs[a, b].append((labels[a], labels[b]))
    return {f"{a}, {b}": cohen_kappa(pairs[a, b]) for a, b in combinations(people, 2) if (a, b) in pairs}


def _by_groups(units: Iterable[Labels], groups: Mapping[str, str]) -> tuple[dict[str, Rate], dict[str, Rate]]:
    """The pairwise agreement of annotators of the same group, and of each two groups."""
    agree: Counter[tuple[str, str]] = Counter()
    of: Counter[tuple[str, str]] = Counter()
    for labels in units:
        for a, b in combinations(labels, 2):
            key = groups[a], groups[b]
            key = (min(key), max(key))
            of[key] += 1
            agree[key] += labels[a] == labels[b]
    rates = {key: Rate(agree[key], of[key]) for key in sorted(of)}
    within = {a: rate for (a, b), rate in rates.items() if a == b}
    between = {f"{a}, {b}": rate for (a, b), rate in rates.items() if a != b}
    return within, between


def _disputed(opinions: Sequence[Judgement]) -> list[Disputed]:
    votes: defaultdict[int, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for each in opinions:
        votes[each.comparison][each.group][each.choice] += 1
    found = []
    for comparison, by_group in votes.items():
        distance = max((_total_variation(a, b) for a, b in combinations(by_group.values(), 2)), default=0.0)
        if distance:
            found.append(Disputed(comparison, distance, {name: dict(said) for name, said in by_group.items()}))
    # As far apart as others, but by more votes: less a matter of chance.
    return sorted(found, key=lambda each: (-each.distance, -sum(map(_total, each.votes.values())), each.comparison))


def _total(votes: Mapping[str, int]) -> int:
    return sum(votes.values())


def _total_variation(a: Counter[str], b: Counter[str]) -> float:
    return sum(abs(a[choice] / a.total() - b[choice] / b.total()) for choice in {*a, *b}) / 2


def _annotator(name: str, judgements: Sequence[Judgement]) -> Annotator:
    own = [each for each in judgements if each.annotator == name]
    seconds = [each.seconds for each in own if each.seconds is not None]
    return Annotator(
        name=name,
        group=own[-1].group,
        judgements=len(own),
        ties=sum(each.choice == "tie" for each in own),
        skips=sum(each.choice == "skip" for each in own),
        median_seconds=median(seconds) if seconds else None,
        shown_first_wins=position_bias(own),
    )


def _is_against_ratings(judgement: Judgement) -> bool:
    """Whether the answer that was preferred is rated lower, on the aspects that both were rated for."""
    if judgement.choice not in ("first", "second"):
        return False
    first, second = (judgement.ratings.get(side, {}) for side in ("first", "second"))
    both = [aspect for aspect in first if aspect in second]
    if not both:
        return False
    lead = fmean(first[aspect] - second[aspect] for aspect in both)
    return lead < 0 if judgement.choice == "first" else lead > 0
