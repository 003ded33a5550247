"""Packed blocks as weights, in float32 or bfloat16: GGUF's types, and NF4 (Dettmers et al. 2023, arXiv:2305.14314).

A block of NF4 is 64 weights in 33 bytes: the scale, as one of the 256 `DYNAMIC` levels, then 32 bytes, of which the low
halves are the first 32 weights and the high ones the others, each one of the `NF4` levels. 256 blocks in a row share a
second scale, a float, and the whole matrix an offset: a weight is level * (dynamic * scale + offset). That is
(33 * 8 + 32 / 256) / 64 = 4.127 bits a weight.

Shapes: N blocks, one after the other through all rows; G = ceil(N / 256) second scales.
"""

from __future__ import annotations

import gguf
import numpy as np
from numpy.typing import NDArray

from modelworks.kernels.native import isa, native, threads

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# In the native kernel's order (cpp/kernels.h), each with its bytes and its weights.
BLOCKS = {
    "Q4_0": (18, 32),
    "Q4_1": (20, 32),
    "Q5_0": (22, 32),
    "Q5_1": (24, 32),
    "Q8_0": (34, 32),
    "Q4_K": (144, 256),
    "Q5_K": (176, 256),
    "Q6_K": (210, 256),
    "NF4": (33, 64),
}
_NUMBERS = {kind: number for number, kind in enumerate(BLOCKS)}
NF4_GROUP = 256

NF4 = np.array(
    # Dettmers et al. 2023, appendix E: quantiles of the normal distribution, scaled to [-1, 1], with an exact zero.
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


def _dynamic_levels() -> Floats:
    """The 256 levels of dynamic tree quantisation (Dettmers 2015, arXiv:1511.04561, section 2.2), ascending.

    A sign, then e zeros and a one for the exponent 10^-e, and the rest of the byte for a fraction, whose values are the
    middles of equal parts of [0.1, 1]; beside them 0 and 1.
    """
    levels = [0.0, 1.0]
    for exponent in range(7):
        edges = np.linspace(0.1, 1, 2 ** (6 - exponent) + 1)
        middles = 10.0**-exponent * (edges[:-1] + edges[1:]) / 2
        levels += [*middles, *-middles]
    return np.sort(np.array(levels, np.float64)).astype(np.float32)


DYNAMIC = _dynamic_levels()
_TABLES = np.concatenate((NF4, DYNAMIC))
_NONE = np.empty(0, np.float32)
_PIECE = 4096  # blocks that are rounded at a time, so that they stay in the cache


def dequantize_reference(kind: str, blocks: Bytes, scales_G: Floats = _NONE, offset: float = 0.0) -> Floats:
    """All weights in a row, as float32, of GGUF's other types too. Raises NotImplementedError for unknown ones."""
    if kind != "NF4":
        weights: Floats = gguf.dequantize(blocks.reshape(1, -1), gguf.GGMLQuantizationType[kind]).reshape(-1)
        return weights
    blocks_N33 = blocks.reshape(-1, 33)
    peak_N = DYNAMIC[blocks_N33[:, 0]] * np.repeat(scales_G, NF4_GROUP)[: len(blocks_N33)] + np.float32(offset)
    codes_N64 = np.concatenate((blocks_N33[:, 1:] & 15, blocks_N33[:, 1:] >> 4), axis=1)
    return (NF4[codes_N64] * peak_N[:, None]).reshape(-1)


def dequantize(
    kind: str,
    blocks: Bytes,
    out: NDArray[np.float32] | NDArray[np.uint16],
    scales_G: Floats = _NONE,
    offset: float = 0.0,
) -> None:
    """Write all weights into `out`, contiguous and of as many elements, by the native kernel where there is one.

    `out` is float32, or uint16 for the bits of bfloat16, rounded to nearest, ties to even.
    """
    extension = native() if kind in BLOCKS else None
    if extension is not None:
        flat = np.ascontiguousarray(blocks).reshape(-1)
        extension.dequantize(_NUMBERS[kind], flat, out, _TABLES, scales_G, offset, threads(), isa())
        return
    weights = dequantize_reference(kind, blocks, scales_G, offset).reshape(out.shape)
    if out.dtype == np.float32:
        out[...] = weights
    else:
        bits = weights.view(np.uint32)
        out[...] = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)


def quantize_nf4(weights: Floats) -> tuple[Bytes, Floats, float]:
    """Any number of weights as blocks (N, 33), the last padded with zeros, with second scales_G and the offset.

    Each weight goes to the level nearest to weight / greatest magnitude of its block; these magnitudes, less their
    mean, the offset, to the `DYNAMIC` level nearest to them / the greatest of 256 (ibid., sections 2 and 3).
    """
    flat = np.ascontiguousarray(weights, np.float32).reshape(-1)
    N = -(-len(flat) // 64)
    w_N64 = np.pad(flat, (0, 64 * N - len(flat))).reshape(N, 64)
    peak_N = np.abs(w_N64).max(axis=1)
    offset = np.float32(peak_N.mean())
    G = -(-N // NF4_GROUP)
    rest_G256 = np.pad(peak_N - offset, (0, NF4_GROUP * G - N)).reshape(G, NF4_GROUP)
    scales_G = np.abs(rest_G256).max(axis=1)
    blocks_N33 = np.empty((N, 33), np.uint8)
    blocks_N33[:, 0] = np.searchsorted(_middles(DYNAMIC), (rest_G256 * _inverse(scales_G)[:, None]).reshape(-1)[:N])
    for start in range(0, N, _PIECE):
        piece = slice(start, start + _PIECE)
        codes_N64 = _nearest_nf4(w_N64[piece] * _inverse(peak_N[piece])[:, None])
        blocks_N33[piece, 1:] = codes_N64[:, :32] | codes_N64[:, 32:] << 4
    return blocks_N33, scales_G, float(offset)


def _middles(levels: Floats) -> Floats:
    return (levels[:-1] + levels[1:]) / np.float32(2)


def _nearest_nf4(values: Floats) -> Bytes:
    """How many middles each value is above, one comparison each: several times the speed of a search."""
    codes = np.zeros(values.shape, np.uint8)
    for middle in _middles(NF4):
        codes += values > middle
    return codes


def _inverse(values: Floats) -> Floats:
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=values != 0)
