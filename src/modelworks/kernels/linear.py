"""Packed low-bit matrices and their product with activations: the layout, the reference, and the call to the kernel.

A weight is `scale * q + low`, with one fp16 scale (and `low`, where there are any) for each group of 32 columns of a
row. Activations are quantised on the fly to int8 by the same groups: x = x_scale * x_q, so that a group's product is an
integer dot product, done exactly, and two float operations:

    y += scale * x_scale * (q . x_q) + low * x_scale * sum(x_q)

Shapes: R rows of a matrix (outputs), C columns (inputs), G = ceil(C / 32) groups, T tiles of 16 rows, M activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelworks.kernels.native import isa, native, threads

GROUP = 32
TILE = 16
FP16_MAX = 65504.0

Int8s = NDArray[np.int8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix as the kernels read it, R x C.

    `data` holds tiles of 16 rows, rows and columns padded with zeros; a tile's groups one after the other, each 16
    scales, 16 lows (`has_min`) or the scales of columns 16 to 31 (`halves`), and the q of 16 rows, interleaved by 4
    columns. Where `bits` is 4 and there are no lows, q counts from -8 and is stored from 0.
    """

    data: NDArray[np.uint8]
    rows: int
    cols: int
    bits: int
    has_min: bool = False
    halves: bool = False

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Quantised rows before they are packed: q_RC, scale_RG (or, two to a group, R x 2G) and low_RG or None.

    With `bits` 4, q is 0 to 15 if there are lows and -8 to 7 if not; with 8, it is -128 to 127.
    """

    bits: int
    q_RC: Int8s
    scale: Floats
    low_RG: Floats | None = None

    @property
    def halves(self) -> bool:
        return self.scale.shape[1] == 2 * group_count(self.q_RC.shape[1])


def group_count(cols: int) -> int:
    return -(-cols // GROUP)


def group_bytes(groups: Groups) -> int:
    scales = 1 if groups.low_RG is None and not groups.halves else 2
    return TILE * (2 * scales + GROUP * groups.bits // 8)


def pack(groups: Groups) -> Packed:
    """Interleave quantised rows. Raises ValueError where a scale does not fit in fp16."""
    R, C = groups.q_RC.shape
    data = np.empty((-(-R // TILE), group_count(C), group_bytes(groups)), np.uint8)
    pack_into(groups, data)
    return Packed(data.reshape(-1), R, C, groups.bits, groups.low_RG is not None, groups.halves)


def pack_into(groups: Groups, out: NDArray[np.uint8]) -> None:
    """Fill tiles, out[T, G, bytes of a group], with rows; so a large matrix can be packed piece by piece."""
    R, C = groups.q_RC.shape
    T, G, _ = out.shape
    q = groups.q_RC
    if groups.bits == 4 and groups.low_RG is None:
        q = q + np.int8(8)
    if T * TILE != R or G * GROUP != C:
        padded = np.full((T * TILE, G * GROUP), 8 if groups.bits == 4 and groups.low_RG is None else 0, np.int8)
        padded[:R, :C] = q
        q = padded
    scales = groups.scale.reshape(R, G, -1)
    if groups.low_RG is not None:
        scales = np.concatenate((scales, groups.low_RG[:, :, None]), axis=2)
    if not np.abs(scales).max(initial=0) <= FP16_MAX:
        raise ValueError("a scale of the weights is not finite or does not fit in 16 bits")
    S = scales.shape[2]
    halfs = np.zeros((T * TILE, G, S), np.float16)
    halfs[:R] = scales
    header = S * TILE * 2
    out[:, :, :header] = halfs.reshape(T, TILE, G, S).transpose(0, 2, 3, 1).copy().view(np.uint8).reshape(T, G, header)
    words = q.view(np.uint32).reshape(T, TILE, G, -1)  # 4 columns each
    if groups.bits == 4:
        words = words[..., 0::2] | words[..., 1::2] << np.uint32(4)
    body = np.ascontiguousarray(words.transpose(0, 2, 3, 1))
    out[:, :, header:] = body.view(np.uint8).reshape(T, G, -1)


def unpack(packed: Packed) -> Groups:
    """What was packed, the inverse of `pack`."""
    G = group_count(packed.cols)
    T = -(-packed.rows // TILE)
    S = 2 if packed.has_min or packed.halves else 1
    tiles = packed.data.reshape(T, G, -1)
    header = S * TILE * 2
    halfs = tiles[:, :, :header].copy().view(np.float16).reshape(T, G, S, TILE).transpose(0, 3, 1, 2)
    scales = halfs.reshape(T * TILE, G, S)[: packed.rows].astype(np.float32)
    words = tiles[:, :, header:].copy().view(np.uint32).reshape(T, G, -1, TILE)
    if packed.bits == 4:
        low = np.uint32(0x0F0F0F0F)
        words = np.stack((words & low, words >> np.uint32(4) & low), axis=3).reshape(T, G, -1, TILE)
    rows = np.ascontiguousarray(words.transpose(0, 3, 1, 2)).view(np.int8).reshape(T * TILE, G * GROUP)
    q_RC = rows[: packed.rows, : packed.cols]
    if packed.bits == 4 and not packed.has_min:
        q_RC = q_RC - np.int8(8)
    if packed.has_min:
        return Groups(packed.bits, q_RC, scales[:, :, 0], scales[:, :, 1])
    return Groups(packed.bits, q_RC, scales.reshape(packed.rows, -1))


def dequantize(packed: Packed) -> Floats:
    """The matrix w_RC that a packed one stands for."""
    groups = unpack(packed)
    width = GROUP // 2 if groups.halves else GROUP
    w_RC = np.repeat(groups.scale, width, axis=1)[:, : packed.cols] * groups.q_RC
    if groups.low_RG is not None:
        w_RC += np.repeat(groups.low_RG, GROUP, axis=1)[:, : packed.cols]
    return w_RC


def _grouped(x: Floats) -> Floats:
    """(N, C) to (N, G, 32), padded with zeros."""
    N, C = x.shape
    G = group_count(C)
    if C % GROUP:
        x = np.pad(x, ((0, 0), (0, G * GROUP - C)))
    return x.reshape(N, G, GROUP)


def quantize(w_RC: Floats, bits: int) -> Groups:
    """Round weights to the nearest of each group's levels: 8 bits around 0, 4 bits from the least to the greatest."""
    R, C = w_RC.shape
    w = _grouped(np.asarray(w_RC, np.float32))
    if bits == 8:
        scale = (np.abs(w).max(axis=2) / 127).astype(np.float16).astype(np.float32)
        low = None
        levels = w * _inverse(scale)[:, :, None]
        least, most = -127, 127
    else:
        padding = np.arange(w.shape[1] * GROUP).reshape(w.shape[1:]) >= C
        low = np.where(padding, np.inf, w).min(axis=2).astype(np.float16).astype(np.float32)
        high = np.where(padding, -np.inf, w).max(axis=2)
        scale = ((high - low).clip(0) / 15).astype(np.float16).astype(np.float32)
        levels = (w - low[:, :, None]) * _inverse(scale)[:, :, None]
        least, most = 0, 15
    q = np.rint(levels).clip(least, most).astype(np.int8).reshape(R, -1)[:, :C]
    return Groups(bits, np.ascontiguousarray(q), scale, low)


def _inverse(scale: Floats) -> Floats:
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def quantize_activations(x_MC: Floats) -> tuple[Int8s, Floats]:
    """x_MC as int8, x_q (M, G, 32) and x_scale (M, G): each group's greatest magnitude is 127."""
    x = _grouped(x_MC)
    peak = np.abs(x).max(axis=2)
    inverse = np.divide(np.float32(127), peak, out=np.zeros_like(peak), where=peak != 0)
    return np.rint(x * inverse[:, :, None]).astype(np.int8), peak / np.float32(127)


DOMINANT = 4.5


def quantize_rest(x_MC: Floats, x_q: Int8s, x_scale: Floats) -> tuple[Int8s, Floats]:
    """What `quantize_activations` took off, for groups that one column dominates; zeros for the others.

    A group's levels follow its greatest magnitude. Where that is above `DOMINANT` roots of the mean square, the other
    31 columns keep few digits: in SmolLM2's attention, perplexity grew by 0.4% for it.
    """
    x = _grouped(x_MC)
    dominated = np.abs(x).max(axis=2) ** 2 > DOMINANT**2 * np.square(x).mean(axis=2)
    scale = np.where(dominated, x_scale / np.float32(254), np.float32(0))
    rest = x - x_q * x_scale[:, :, None]
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    return np.rint(rest * inverse[:, :, None]).astype(np.int8), scale


def linear_reference(packed: Packed, x_MC: Floats, *, fine: bool = False) -> Floats:
    """x_MC times the matrix's transpose, y_MR, with the kernel's arithmetic; `fine` adds `quantize_rest`'s part."""
    x_q, x_scale = quantize_activations(x_MC)
    y_MR = _product(packed, x_q, x_scale)
    return y_MR + _product(packed, *quantize_rest(x_MC, x_q, x_scale)) if fine else y_MR


def _product(packed: Packed, x_q: Int8s, x_scale: Floats) -> Floats:
    groups = unpack(packed)
    R, C = packed.rows, packed.cols
    G = group_count(C)
    q = np.pad(groups.q_RC, ((0, 0), (0, G * GROUP - C))).reshape(R, G, GROUP).astype(np.int32)
    halves = groups.scale.shape[1] // G
    dot = np.einsum(
        "rghc,mghc->mrgh", q.reshape(R, G, halves, -1), x_q.astype(np.int32).reshape(len(x_q), G, halves, -1)
    )
    y = (dot * groups.scale.reshape(R, G, halves)).sum(axis=3) * x_scale[:, None]
    if groups.low_RG is not None:
        y = y + groups.low_RG * (x_scale * x_q.sum(axis=2, dtype=np.int32))[:, None]
    return y.sum(axis=2, dtype=np.float32)


def linear(packed: Packed, x_MC: Floats, *, fine: bool = False) -> Floats:
    """The same by the native kernel, or by the reference where there is none."""
    extension = native()
    if extension is None:
        return linear_reference(packed, x_MC, fine=fine)
    y_MR = np.empty((len(x_MC), packed.rows), np.float32)
    extension.linear(packed, np.ascontiguousarray(x_MC, np.float32), y_MR, fine, threads(), isa())
    return y_MR
