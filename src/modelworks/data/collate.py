"""Rows of tokens to the tensors of a `Batch`. Shapes: B rows, T tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modelworks.data.batch import Batch
from modelworks.text.tokenizer import Tokenizer


class Encoded(NamedTuple):
    """One document: its token ids, and for each what it counts in the loss as the token to be predicted."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]


class Row(NamedTuple):
    """One row of a batch before padding, all of one length; the fields are those of `Batch` (`data/batch.py`)."""

    input_ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]
    documents: NDArray[np.int64]
    """The number of each token's document in the row, from 1; what a batch calls `attention_mask`."""
    positions: NDArray[np.int64]


def packed_row(documents: Sequence[Encoded]) -> Row:
    """Documents side by side. Each gives its ids but the last as inputs and its ids but the first as targets, so no
    target crosses into another document.
    """
    lengths = [len(document.ids) - 1 for document in documents]
    return Row(
        input_ids=np.concatenate([document.ids[:-1] for document in documents]),
        targets=np.concatenate([document.ids[1:] for document in documents]),
        weights=np.concatenate([document.weights[1:] for document in documents]),
        documents=np.repeat(np.arange(1, len(documents) + 1), lengths),
        positions=np.concatenate([np.arange(length) for length in lengths]),
    )


_NONE = np.zeros(0, np.int64)
BLANK = Row(_NONE, _NONE, np.zeros(0, np.float32), _NONE, _NONE)
"""A row in which nothing counts: it fills a last batch, so that every rank has one."""


def collate(rows: Sequence[Row], *, pad_id: int, length: int | None = None, masked: bool = True) -> Batch:
    """Rows padded on the right to the longest of them, or to `length` tokens.

    Padding has weight 0 and attention mask 0. Without `masked`, `attention_mask` and `positions` are left out, for rows
    that are whole and in which every token sees all before it.
    """
    T = max(1, *(len(row.input_ids) for row in rows)) if length is None else length
    B = len(rows)
    fills = {"input_ids": pad_id, "targets": pad_id, "weights": 0, "documents": 0, "positions": 0}
    batch: Batch = {}
    for name, fill in fills.items():
        if name in ("documents", "positions") and not masked:
            continue
        stacked = np.full((B, T), fill, np.float32 if name == "weights" else np.int64)
        for at, row in enumerate(rows):
            values = getattr(row, name)
            stacked[at, : len(values)] = values
        batch["attention_mask" if name == "documents" else name] = torch.from_numpy(stacked)
    return batch


def pad_id_of(tokenizer: Tokenizer) -> int:
    """The tokenizer's pad, which is never its EOS; without one, the first id that ends nothing.

    Padding has no weight and is not attended to, so any id would do; one that ends a turn would mislead whoever looks
    for the end of an answer in a batch.
    """
    if tokenizer.pad_id is not None and tokenizer.pad_id not in tokenizer.stop_ids:
        return tokenizer.pad_id
    return next(index for index in range(len(tokenizer.stop_ids) + 1) if index not in tokenizer.stop_ids)
