"""The key-value cache of a batch: contiguous, grown by doubling; rows can leave it, and tokens can be undone.

Shapes: B batch, K key-value heads, T new tokens, S tokens held after them, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Cache:
    """Keys and values by layer; implements `models.blocks.attention.KVCache`.

    `capacity` tokens are reserved at once; past it the buffers double. Tensors that `update` returns are views into
    them, to be used before the next call.
    """

    def __init__(self, num_layers: int, capacity: int = 256) -> None:
        self._capacity = max(1, capacity)
        self._keys: list[Tensor | None] = [None] * num_layers
        self._values: list[Tensor | None] = [None] * num_layers
        self._lengths = [0] * num_layers

    @property
    def length(self) -> int:
        """Tokens that every layer holds: while a forward pass is under way, those before it."""
        return min(self._lengths)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values) if buffer is not None)

    def update(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append new tokens to a layer; return all of its keys and values, k_BKSD and v_BKSD."""
        start = self._lengths[layer]
        end = start + k_BKTD.shape[2]
        keys = self._keys[layer] = self._room(self._keys[layer], k_BKTD, start, end)
        values = self._values[layer] = self._room(self._values[layer], v_BKTD, start, end)
        keys[:, :, start:end] = k_BKTD
        values[:, :, start:end] = v_BKTD
        self._lengths[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def _room(self, buffer: Tensor | None, new_BKTD: Tensor, filled: int, needed: int) -> Tensor:
        """A buffer for `needed` tokens: the same, or a longer one with what it held."""
        if buffer is not None and buffer.shape[2] >= needed:
            return buffer
        size = max(needed, self._capacity if buffer is None else 2 * buffer.shape[2])
        B, K, _, D = new_BKTD.shape
        longer = torch.empty(B, K, size, D, dtype=new_BKTD.dtype, device=new_BKTD.device)
        if buffer is not None:
            longer[:, :, :filled] = buffer[:, :, :filled]
        return longer

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Let all other rows go; the rest take the places in `rows`, in that order."""
        index: Tensor | None = None
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    index = torch.tensor(rows, device=buffer.device) if index is None else index
                    buffers[layer] = buffer.index_select(0, index)

    def truncate(self, length: int) -> None:
        """Forget every token from `length` on (a speculation that was refused, say)."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        self._lengths = [length] * len(self._lengths)
