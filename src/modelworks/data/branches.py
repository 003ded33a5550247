"""Several completions of one prompt in one row: the prompt is computed once, and no completion sees another.

A row is a tree of two levels. Its first piece is the prompt but for its last token; each completion is a piece that
continues it, and begins with the prompt's last token, whose output predicts the completion's first:

    prompt  a b c      completions  x y .     z .

    input_ids      a b | c x y | c z
    targets        b c | x y . | z .
    attention      1 1 | 2→1   | 3→1
    positions      0 1 | 2 3 4 | 2 3
    sequences     -1-1 | 0 0 0 | 1 1

The results are those of each completion in a row of its own. Shapes: B rows, T tokens, S completions of a batch, n
tokens of a prompt, m of a completion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from modelworks.data.batch import Batch
from modelworks.models.blocks.attention import continuing

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Branch:
    """One completion: its ids_m, what each counts, and what else is known of each (all of length m)."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    tokens: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Branches:
    """A prompt of at least one token, and completions of it. `columns` are of the row or of each completion."""

    prompt: NDArray[np.int64]
    completions: Sequence[Branch]
    columns: Mapping[str, Array] = field(default_factory=dict)

    def places(self) -> int:
        """How many tokens the row takes."""
        return len(self.prompt) - 1 + sum(len(completion.ids) for completion in self.completions)


def branch_batch(rows: Sequence[Branches], *, pad_id: int, packed: bool = True, whole: bool = False) -> Batch:
    """A batch of rows: side by side in one where `packed`, else one under the other, padded on the right.

    Beside the names of `data/batch.py` it has `sequences` (B, T), the number of the completion that a place belongs to,
    or -1; each name of `Branch.tokens` (B, T), 0 elsewhere; and each of `Branches.columns`, laid end to end. With
    `whole` a completion's last token is read, too, and predicts nothing: a reward is what it says. Without rows the
    batch is one token of padding. Raises ValueError for a row that does not fit its own shape.
    """
    parts: list[dict[str, Array]] = []
    completions = documents = 0
    for row in rows:
        if not len(row.prompt):
            raise ValueError("a prompt has no tokens: without one, nothing predicts a completion's first")
        parts.append(_laid_out(row, completions, documents if packed else 0, pad_id, whole))
        completions += len(row.completions)
        documents += 1 + len(row.completions)
    if packed and parts:
        names = _names(parts)
        parts = [{name: np.concatenate([_part(part, name) for part in parts]) for name in names}]
    T = max((len(part["input_ids"]) for part in parts), default=1)
    fills = {"input_ids": pad_id, "targets": pad_id, "sequences": -1}
    blank: dict[str, Array] = {name: np.zeros(0, np.int64) for name in (*fills, "attention_mask", "positions")}
    blank["weights"] = np.zeros(0, np.float32)
    batch: Batch = {}
    for name in _names([*parts, blank]):
        columns = [_part(part, name) for part in parts or [blank]]
        stacked = np.full((len(columns), T), fills.get(name, 0), columns[0].dtype)
        for at, values in enumerate(columns):
            stacked[at, : len(values)] = values
        batch[name] = torch.from_numpy(stacked)
    for name in _names([row.columns for row in rows]):
        batch[name] = torch.from_numpy(np.concatenate([np.atleast_1d(row.columns[name]) for row in rows]))
    return batch


def _names(parts: Sequence[Mapping[str, Array]]) -> list[str]:
    """All names, in one order on all ranks."""
    return list(dict.fromkeys(name for part in parts for name in part))


def _part(part: Mapping[str, Array], name: str) -> Array:
    if name in part:
        return part[name]
    return np.zeros(len(part["input_ids"]), np.float32)


def _laid_out(row: Branches, completions: int, documents: int, pad_id: int, whole: bool) -> dict[str, Array]:
    """The row's columns of tokens, numbered from `completions` and `documents` on."""
    n, parent = len(row.prompt), documents + 1
    shared = n - 1
    columns: dict[str, list[Array]] = {
        "input_ids": [row.prompt[:-1]],
        "targets": [row.prompt[1:]],
        "weights": [np.zeros(shared, np.float32)],
        "attention_mask": [np.full(shared, parent, np.int64)],
        "positions": [np.arange(shared)],
        "sequences": [np.full(shared, -1, np.int64)],
    }
    names = _names([completion.tokens for completion in row.completions])
    columns |= {name: [np.zeros(shared, np.float32)] for name in names}
    for number, completion in enumerate(row.completions):
        m = len(completion.ids)
        if any(len(values) != m for values in (completion.weights, *completion.tokens.values())):
            raise ValueError(f"a completion of {m} ids has other numbers of weights or of what is known of its tokens")
        T, document = m + whole, parent + 1 + number
        columns["input_ids"].append(np.concatenate([row.prompt[-1:], completion.ids])[:T])
        columns["targets"].append(_padded(completion.ids, T, pad_id))
        columns["weights"].append(_padded(completion.weights, T))
        columns["attention_mask"].append(np.full(T, continuing(document, parent) if shared else document, np.int64))
        columns["positions"].append(np.arange(shared, shared + T))
        columns["sequences"].append(np.full(T, completions + number, np.int64))
        for name in names:
            columns[name].append(_padded(completion.tokens.get(name, np.zeros(m, np.float32)), T))
    return {name: np.concatenate(values) for name, values in columns.items()}


def _padded(values: Array, length: int, fill: float = 0) -> Array:
    return np.pad(values, (0, length - len(values)), constant_values=fill)
