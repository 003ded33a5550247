"""Fusion of ranked lists into one.

A list maps an item to its score there, higher is better. Two ways: by rank alone (reciprocal rank, Cormack, Clarke and
Buettcher 2009) and by a weighted sum of scores brought to one scale (Bruch, Gai and Ingber 2023, arXiv:2210.11934,
who find the sum the better of the two and robust to how its weight is chosen).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def reciprocal_rank(
    lists: Sequence[Mapping[Item, float]], weights: Sequence[float] | None = None, *, k: float = 60.0
) -> dict[Item, float]:
    """Sum over the lists of weight / (k + rank), rank from 1. Equal scores share the better rank."""
    fused: dict[Item, float] = {}
    for scores, weight in zip(lists, weights or [1.0] * len(lists), strict=True):
        rank, previous = 0, None
        for position, (item, score) in enumerate(sorted(scores.items(), key=lambda pair: -pair[1]), start=1):
            if score != previous:
                rank, previous = position, score
            fused[item] = fused.get(item, 0.0) + weight / (k + rank)
    return fused


def min_max(scores: Mapping[Item, float], floor: float | None = None) -> dict[Item, float]:
    """Scores moved to [0, 1]: `floor` (the least score where it is None) becomes 0 and the best 1."""
    if not scores:
        return {}
    low = min(scores.values()) if floor is None else floor
    span = max(scores.values()) - low
    return {item: max(0.0, (score - low) / span) if span > 0 else 1.0 for item, score in scores.items()}


def weighted_sum(lists: Sequence[Mapping[Item, float]], weights: Sequence[float]) -> dict[Item, float]:
    """Sum over the lists of weight times score; an item that a list lacks has 0 there."""
    fused: dict[Item, float] = {}
    for scores, weight in zip(lists, weights, strict=True):
        for item, score in scores.items():
            fused[item] = fused.get(item, 0.0) + weight * score
    return fused
