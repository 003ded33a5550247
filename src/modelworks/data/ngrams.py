"""Words of a text as 64-bit numbers, whatever its case and punctuation, and n-grams of them; without a Python loop.

Near duplicates, repetition and contamination are all questions about n-grams of words. Shapes: W words, N n-grams.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_SEPARATORS = re.compile(r"[\W_]+")
# Scripts that put no space between words: each character counts as a word.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f])"
)
_ASCII_WORDS = bytes(byte if chr(byte).isalnum() else 32 for byte in range(128)) + bytes(range(128, 256))
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_SPACE = 32


def normalised(text: str) -> bytes:
    """The words of `text` in UTF-8, lower-cased (NFKC, case-folded), with one space between two of them."""
    if text.isascii():
        return b" ".join(text.lower().encode().translate(_ASCII_WORDS).split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Folding may undo the normal form; lone surrogates are no letters, so they separate words.
    words = _SEPARATORS.sub(" ", _UNSPACED.sub(r" \1 ", unicodedata.normalize("NFKC", folded)))
    return b" ".join(words.encode("utf-8", "replace").split())


def word_hashes(text: str) -> Hashes:
    """One number for each word of `text`, the same for the same word; (W,)."""
    return hash_words(normalised(text))


def hash_words(words: bytes) -> Hashes:
    """`word_hashes` of what `normalised` gave.

    A word's hash is that of a polynomial in its bytes (Karp and Rabin 1987) modulo 2^64, taken from one running sum
    over the whole text: what stands between two places, divided by the power at which it begins.
    """
    if not words:
        return np.empty(0, np.uint64)
    bytes_B = np.frombuffer(words, np.uint8)
    spaces = np.flatnonzero(bytes_B == _SPACE)
    starts_W = np.concatenate(([0], spaces + 1))
    ends_W = np.concatenate((spaces, [len(bytes_B)]))
    powers = _powers(_BASE, len(bytes_B))
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(_BYTE_HASHES[bytes_B] * powers, dtype=np.uint64)))
    return mix((sums[ends_W] - sums[starts_W]) * _powers(_INVERSE, len(bytes_B))[starts_W])


def ngram_hashes(words_W: Hashes, size: int) -> Hashes:
    """One number for each run of `size` words, in order; (W - size + 1,), or none where there are fewer words.

    Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"an n-gram has at least one word; got {size}")
    count = len(words_W) - size + 1
    if count < 1:
        return np.empty(0, np.uint64)
    hashes_N = np.zeros(count, np.uint64)
    for at in range(size):
        hashes_N = hashes_N * np.uint64(_BASE) + words_W[at : at + count]
    return mix(hashes_N)


def mix(x: Hashes) -> Hashes:
    """Each number scattered over all 64 bits, one to one: the finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _powers(base: int, count: int) -> Hashes:
    """base^0 .. base^(count - 1) modulo 2^64, at least; kept, and grown by half more than asked."""
    kept = _kept.get(base)
    if kept is None or len(kept) < count:
        factors = np.full(max(count + count // 2, 1 << 16), base, np.uint64)
        factors[0] = 1
        kept = _kept[base] = np.cumprod(factors, dtype=np.uint64)
        if len(kept) > _MOST_KEPT:
            del _kept[base]  # one huge text must not cost its memory for ever
    return kept[:count]


_MOST_KEPT = 1 << 22
_kept: dict[int, Hashes] = {}
_BYTE_HASHES = mix(np.arange(1, 257, dtype=np.uint64) * np.uint64(_BASE))
