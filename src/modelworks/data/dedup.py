"""Duplicates: exact ones by the hash of their words, near ones by MinHash (Broder 1997) and banded LSH.

Two texts are near duplicates where the Jaccard similarity of their sets of word n-grams ("shingles"), as estimated from
their signatures, reaches a threshold. Shapes: D texts, W words, S shingles, K hash functions, B bands of R rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelworks.data.ngrams import Hashes, hash_words, mix, ngram_hashes, normalised

FINGERPRINT = np.dtype("V16")
_CACHED = 1 << 15  # products of a block of hashes: 32 Ki of 8 bytes stay in the second-level cache
_PAIRS = 1 << 16


class Sketch(NamedTuple):
    """What tells whether texts are duplicates: of one part of a corpus, or of all."""

    fingerprints_D: NDArray[np.void]
    """128 bits of the hash of each text's words."""
    bands_BD: Hashes
    """The hash of each band of each signature."""
    signatures_DK: NDArray[np.uint32]


@dataclass(frozen=True)
class MinHash:
    """Signatures whose entries agree, each with the probability of the two sets' Jaccard similarity."""

    threshold: float = 0.8
    """Similarity from which two texts are near duplicates."""
    size: int = 5
    """Words of a shingle."""
    num_hashes: int = 128
    """K: the estimate's standard error is sqrt(J (1 - J) / K), .035 at J = .8."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"the threshold lies between 0 and 1, 0 excluded; got {self.threshold}")
        if self.size < 1 or self.num_hashes < 1:
            raise ValueError(f"size and num_hashes are at least 1; got {self.size} and {self.num_hashes}")

    @cached_property
    def bands(self) -> tuple[int, int]:
        """B and R, the most selective ones with which a pair at the threshold shares a band 19 times of 20."""
        for rows in range(self.num_hashes, 1, -1):
            if 1 - (1 - self.threshold**rows) ** (self.num_hashes // rows) >= 0.95:
                return self.num_hashes // rows, rows
        return self.num_hashes, 1

    @cached_property
    def _multipliers_KS(self) -> Hashes:
        draw = np.random.default_rng(self.seed).integers(0, 1 << 64, self.num_hashes, np.uint64, endpoint=False)
        return (draw | np.uint64(1))[:, None]

    def sketch(self, texts: Iterable[str]) -> Sketch:
        """The sketch of `texts`."""
        sketcher = Sketcher(self)
        for text in texts:
            sketcher.add(text)
        return sketcher.done()

    def signature(self, words_W: Hashes) -> NDArray[np.uint32]:
        """The signature of a text, given the hashes of its words; (K,).

        A text of fewer words than a shingle is one shingle. One without words is like no other: all entries are the
        largest number, with which none agrees.
        """
        signature_K = np.full(self.num_hashes, _NONE, np.uint32)
        if not len(words_W):
            return signature_K
        shingles_S = np.unique(ngram_hashes(words_W, min(self.size, len(words_W))))
        block = max(_CACHED // self.num_hashes, 1)
        for at in range(0, len(shingles_S), block):
            # Multiply-shift: an odd multiplier, and the product's upper half, of hashes that are random already.
            hashed_KS = (self._multipliers_KS * shingles_S[at : at + block]) >> np.uint64(32)
            np.minimum(signature_K, hashed_KS.min(1).astype(np.uint32), out=signature_K)
        return np.minimum(signature_K, _NONE - np.uint32(1))

    def band_hashes(self, signatures_DK: NDArray[np.uint32]) -> Hashes:
        """One number for each band of each signature, equal where all rows of the band are; (B, D)."""
        bands, rows = self.bands
        hashes_BD = np.empty((bands, len(signatures_DK)), np.uint64)
        for band in range(bands):
            hashes_D = np.zeros(len(signatures_DK), np.uint64)
            for row in range(band * rows, (band + 1) * rows):
                hashes_D = mix(hashes_D ^ signatures_DK[:, row])
            hashes_BD[band] = hashes_D
        return hashes_BD


_NONE = np.uint32(0xFFFFFFFF)


class Sketcher:
    """Makes a sketch text by text, so that the texts need not be held."""

    def __init__(self, minhash: MinHash) -> None:
        self._minhash = minhash
        self._fingerprints: list[bytes] = []
        self._signatures: list[NDArray[np.uint32]] = []

    def add(self, text: str) -> None:
        words = normalised(text)
        self._fingerprints.append(hashlib.blake2b(words, digest_size=16).digest())
        self._signatures.append(self._minhash.signature(hash_words(words)))

    def done(self) -> Sketch:
        signatures_DK = np.array(self._signatures, np.uint32).reshape(-1, self._minhash.num_hashes)
        fingerprints_D = np.array(self._fingerprints, FINGERPRINT)
        return Sketch(fingerprints_D, self._minhash.band_hashes(signatures_DK), signatures_DK)


class StoredSketch:
    """A sketch on disk. Each array is mapped when it is asked for, since files that stay open are limited in number."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem

    @staticmethod
    def save(sketch: Sketch, stem: Path) -> None:
        """Write a sketch into files whose names begin with `stem`."""
        for name, array in sketch._asdict().items():
            np.save(stem.with_name(f"{stem.name}.{name}.npy"), array)

    def _load(self, name: str) -> Any:
        return np.load(self._stem.with_name(f"{self._stem.name}.{name}.npy"), mmap_mode="r")

    @property
    def fingerprints_D(self) -> NDArray[np.void]:
        return self._load("fingerprints_D")

    @property
    def bands_BD(self) -> Hashes:
        return self._load("bands_BD")

    @property
    def signatures_DK(self) -> NDArray[np.uint32]:
        return self._load("signatures_DK")


def jaccard(a_DK: NDArray[np.uint32], b_DK: NDArray[np.uint32]) -> NDArray[np.float64]:
    """The similarity of texts as their signatures estimate it; (D,)."""
    return ((a_DK == b_DK) & (a_DK != _NONE)).mean(-1)


class Duplicates(NamedTuple):
    """For each text of a corpus, in order, the first of those like it, which is the one to keep: itself, mostly."""

    first_D: NDArray[np.int64]
    exact_D: NDArray[np.bool_]
    """Whether a text has the same words as an earlier one."""


def find_duplicates(parts: Sequence[Sketch | StoredSketch], threshold: float | None) -> Duplicates:
    """The duplicates in a corpus whose sketch lies in parts, in memory or on disk.

    Texts with the same words are one; then, unless `threshold` is None, those whose signatures share a band and agree
    in at least that share of entries. Likeness is passed on: where A is like B and B like C, all are one. Bands are
    sorted one by one, so that memory holds some 40 bytes a text, whatever K.
    """
    fingerprints_D = np.concatenate([part.fingerprints_D for part in parts]) if parts else np.empty(0, FINGERPRINT)
    _, firsts, inverse_D = np.unique(fingerprints_D, return_index=True, return_inverse=True)
    groups = _Groups(firsts[inverse_D.reshape(-1)].astype(np.int64))
    exact_D = groups.first_D != np.arange(len(groups.first_D))
    del fingerprints_D, inverse_D
    if threshold is not None and len(exact_D):
        alone = np.flatnonzero(~exact_D)
        signatures = _Signatures(parts)
        for band in range(len(parts[0].bands_BD)):
            hashes_D = np.concatenate([part.bands_BD[band] for part in parts])
            for earlier, later in _alike(hashes_D, alone, groups, signatures, threshold):
                groups.join(earlier, later)
    return Duplicates(groups.roots(), exact_D)


def _alike(
    hashes_D: Hashes, alone: NDArray[np.int64], groups: _Groups, signatures: _Signatures, threshold: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of texts that share a band and are alike: each bucket's members beside its first one, then those that
    were not like it beside the first of them, and so on."""
    order = alone[np.argsort(hashes_D[alone], kind="stable")]
    while len(order) > 1:
        hashes = hashes_D[order]
        begins = np.concatenate(([True], hashes[1:] != hashes[:-1]))
        heads = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        later = order[~begins]
        earlier = heads[~begins]
        like = np.empty(len(later), bool)
        for at in range(0, len(later), _PAIRS):
            pair = slice(at, at + _PAIRS)
            # What an earlier band has joined needs no second look.
            joined = groups.first_D[earlier[pair]] == groups.first_D[later[pair]]
            like[pair] = joined
            ask = np.flatnonzero(~joined) + at
            like[ask] = jaccard(signatures[earlier[ask]], signatures[later[ask]]) >= threshold
        yield earlier[like], later[like]
        order = later[~like]


class _Signatures:
    """The signatures of texts by their numbers in the whole corpus."""

    def __init__(self, parts: Sequence[Sketch | StoredSketch]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.fingerprints_D) for part in parts)])
        self._width = parts[0].signatures_DK.shape[1]

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.uint32]:
        of_part = np.searchsorted(self._starts, index, "right") - 1
        rows = np.empty((len(index), self._width), np.uint32)
        for number in np.unique(of_part):
            mine = of_part == number
            rows[mine] = self._parts[number].signatures_DK[index[mine] - self._starts[number]]
        return rows


class _Groups:
    """Disjoint sets of numbers, each named by its smallest member (union-find, Tarjan 1975, with path halving)."""

    def __init__(self, first_D: NDArray[np.int64]) -> None:
        self.first_D = first_D

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        for one, other in zip(a.tolist(), b.tolist()):
            one, other = self._root(one), self._root(other)
            if one != other:
                self.first_D[max(one, other)] = min(one, other)

    def _root(self, at: int) -> int:
        first_D = self.first_D
        while first_D[at] != at:
            first_D[at] = first_D[first_D[at]]
            at = int(first_D[at])
        return at

    def roots(self) -> NDArray[np.int64]:
        """The smallest member of each number's set."""
        while True:
            further_D = self.first_D[self.first_D]
            if np.array_equal(further_D, self.first_D):
                return further_D
            self.first_D = further_D


def deduplicate(texts: Sequence[str], minhash: MinHash | None = None) -> list[int]:
    """The numbers of the texts to keep: of those that are alike, the first."""
    minhash = minhash or MinHash()
    first_D = find_duplicates([minhash.sketch(texts)], minhash.threshold).first_D
    return np.flatnonzero(first_D == np.arange(len(first_D))).tolist()
