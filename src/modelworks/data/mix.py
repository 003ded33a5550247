"""Mixing sources by weights: which share of a corpus each source is given, and how often it is repeated for that."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from modelworks.core.errors import ConfigError

MOST_EPOCHS = 4.0
"""Up to four passes over the same data are nearly as good as new data (Muennighoff et al. 2023)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """A source's part in a mixture; sizes are in the unit that the caller counts in."""

    weight: float
    """Its share of the whole, between 0 and 1."""
    available: int
    wanted: float
    epochs: float
    """How often it is read: 0.5 takes half of it, 2 all of it twice."""


def plan(
    available: Mapping[str, int],
    weights: Mapping[str, float],
    *,
    total: int | None = None,
    most_epochs: float = MOST_EPOCHS,
) -> dict[str, Share]:
    """What each source gives to a mixture of size `total`; without one, to the largest that repeats nothing.

    Args:
        available: the size of each source.
        weights: one for each source, in any unit; 0 leaves a source out.

    Raises:
        ConfigError: weights and sources do not fit together, or a source would be read more than `most_epochs` times.
    """
    if unknown := sorted(set(weights) ^ set(available)):
        raise ConfigError(f"sources and weights do not match at {unknown[0]!r}: each source has one weight")
    if any(not 0 <= weight < float("inf") for weight in weights.values()) or not sum(weights.values()) > 0:
        raise ConfigError("weights are numbers from 0 upwards, and one of them at least is above 0")
    scale = sum(weights.values())
    portions = {name: weight / scale for name, weight in weights.items() if weight}
    for name in portions:
        if not available[name]:
            raise ConfigError(f"{name!r} has a weight but no text is left of it")
    size = min(available[name] / portion for name, portion in portions.items()) if total is None else total
    shares = {
        name: Share(portion, available[name], portion * size, portion * size / available[name])
        for name, portion in portions.items()
    }
    for name, share in shares.items():
        if share.epochs > most_epochs:
            raise ConfigError(
                f"{name!r} would be read {share.epochs:.1f} times, at most {most_epochs:g} allowed: "
                f"lower its weight or the total"
            )
    return shares


def mix(
    sources: Mapping[str, Sequence[T]], shares: Mapping[str, Share], size: Callable[[T], int], *, seed: int = 0
) -> Iterator[tuple[str, T]]:
    """The items of a mixture, each with its source's name, in an order that `seed` decides.

    A source is shuffled anew for each pass over it. The next item is always of the source that is furthest behind its
    share, so that every stretch of the mixture, not only the whole, has the weights that were asked for. A source
    ends with the item that reaches its share; items are not cut.
    """
    streams = {name: _endless(sources[name], f"{seed}/{name}") for name in shares}
    taken = dict.fromkeys(shares, 0)
    while streams:
        name = min(streams, key=lambda name: taken[name] / shares[name].wanted)
        if taken[name] >= shares[name].wanted * (1 - 1e-9):  # the quotients of `plan` are not exact
            return
        item = next(streams[name])
        # An item of no size would never bring its source forward.
        taken[name] += max(size(item), 1)
        yield name, item


def _endless(items: Sequence[T], seed: str) -> Iterator[T]:
    draw = random.Random(seed)  # a string seeds by its SHA-512, the same in every process
    order = list(range(len(items)))
    while True:
        draw.shuffle(order)
        yield from (items[at] for at in order)
