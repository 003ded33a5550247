"""GGUF's blocks as quantised groups, for packing: most types keep their very levels and scales.

The formats are llama.cpp's (https://github.com/ggml-org/llama.cpp: ggml/src/ggml-common.h, ggml-quants.c). Scales of
the K-quants are products of a block's fp16 scale and a small integer, which are rounded to fp16: a relative 2^-11.
What is not in `DECODERS` is de-quantised and rounded anew to 8 bits by the caller.

Shapes: N blocks, one row of bytes each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from modelworks.kernels.linear import Floats, Groups

Bytes = NDArray[np.uint8]


def _halfs(blocks: Bytes, at: int, count: int = 1) -> Floats:
    return blocks[:, at : at + 2 * count].copy().view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """(N, ..., W) to (N, ..., 2W): all low halves, then all high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _signed(q: Bytes, zero: int) -> NDArray[np.int8]:
    return q.view(np.int8) - np.int8(zero)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> Groups:
    return Groups(4, _signed(_nibbles(blocks[:, 2:]), 8), _halfs(blocks, 0))


def _q4_1(blocks: Bytes) -> Groups:
    return Groups(4, _nibbles(blocks[:, 4:]).view(np.int8), _halfs(blocks, 0), _halfs(blocks, 2))


def _q5_0(blocks: Bytes) -> Groups:
    return Groups(8, _signed(_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2), 16), _halfs(blocks, 0))


def _q5_1(blocks: Bytes) -> Groups:
    q = (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)).view(np.int8)
    return Groups(8, q, _halfs(blocks, 0), _halfs(blocks, 2))


def _q8_0(blocks: Bytes) -> Groups:
    return Groups(8, blocks[:, 2:].copy().view(np.int8), _halfs(blocks, 0))


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """Scales and lows of the 8 groups of a Q4_K or Q5_K block: 6 bits each, in 12 bytes after d and dmin."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale = np.concatenate((first & 63, rest & 15 | first >> 6 << 4), axis=1)
    low = np.concatenate((second & 63, rest >> 4 | second >> 6 << 4), axis=1)
    return _halfs(blocks, 0) * scale, -_halfs(blocks, 2) * low


def _q4_k(blocks: Bytes) -> Groups:
    q = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(len(blocks), 256)
    return Groups(4, q.view(np.int8), *_k_scales(blocks))


def _q5_k(blocks: Bytes) -> Groups:
    q = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(len(blocks), 8, 32)
    fifth = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").transpose(0, 2, 1) << np.uint8(4)
    return Groups(8, (q | fifth).reshape(len(blocks), 256).view(np.int8), *_k_scales(blocks))


def _q6_k(blocks: Bytes) -> Groups:
    """16 groups of 16 columns; a block's halves of 128 columns each take 64 bytes of low and 32 of high bits."""
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    low = np.concatenate((low & 15, low >> 4), axis=2)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    scale = _halfs(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return Groups(8, _signed((low | high << np.uint8(4)).reshape(len(blocks), 256), 32), scale)


DECODERS: dict[str, Callable[[Bytes], Groups]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


def decode(kind: str, rows: Bytes, block_bytes: int) -> Groups:
    """Packed rows, R x bytes, of a type in `DECODERS` as groups of R rows."""
    groups = DECODERS[kind](rows.reshape(-1, block_bytes))
    R = len(rows)
    low = None if groups.low_RG is None else groups.low_RG.reshape(R, -1)
    return Groups(groups.bits, groups.q_RC.reshape(R, -1), groups.scale.reshape(R, -1), low)
