"""Random orders that are computed, not stored: any part of a permutation by itself, the same on every machine.

A stream that is resumed must find the order it was stopped in. Library generators do not promise the same numbers over
versions (NEP 19), and a stored permutation of a billion rows is 8 GB; this one is a function of the seed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROUNDS: Final = 6
_FEW: Final = 1024


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A step of the SplitMix64 generator (Steele, Lea and Flood 2014, figure 17)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hashed(*numbers: int) -> NDArray[np.uint64]:
    state = np.zeros(1, np.uint64)
    for number in numbers:
        state = _mixed(state ^ np.uint64(number % 2**64))
    return state


def uniform(*numbers: int) -> float:
    """A number in [0, 1) that these numbers, a seed and a place say, decide."""
    return float(_hashed(*numbers)[0] >> np.uint64(11)) / 2**53


def permuted(places: NDArray[np.int64], size: int, *key: int) -> NDArray[np.int64]:
    """What stands at some places of the random permutation of `range(size)` that `key` (a seed, an epoch) decides.

    Few places are sorted by random keys. For many, where that would take long and much memory, a Feistel network over
    the least power of four that holds `size` is walked until it comes back into the range (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains", section 5).
    """
    assert size > 0
    assert places.size == 0 or (places.min() >= 0 and places.max() < size)
    if size <= _FEW:
        return np.argsort(_mixed(_hashed(*key) ^ np.arange(size, dtype=np.uint64)), kind="stable")[places]
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [_hashed(*key, turn) for turn in range(_ROUNDS)]

    def once(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> half, x & mask
        for k in keys:
            left, right = right, left ^ (_mixed(right ^ k) & mask)
        return left << half | right

    found = once(places.astype(np.uint64))
    while (outside := found >= np.uint64(size)).any():
        found[outside] = once(found[outside])
    return found.astype(np.int64)
