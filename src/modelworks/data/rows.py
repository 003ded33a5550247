"""Orders of rows: which tokens make each row of an epoch, and in what order, as functions of the data and a seed.

An order is cut into windows, planned one at a time, so that a stream can begin anywhere at once. T tokens a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError, DataError
from modelworks.data.collate import Row, packed_row
from modelworks.data.packing import first_fit_decreasing
from modelworks.data.shards import Documents, Shards, Sized
from modelworks.data.shuffle import permuted, uniform

Plan = Callable[[], Any]
"""A row that is loaded when it is called for: a `Row`, or what the stream's `collate` makes batches of."""
_SHIFT, _WINDOW_ORDER = 1, 2  # kinds of random numbers beside the main order, to keep them independent


class Rows(Protocol):
    """An order of rows, cut into windows that are planned one at a time."""

    @property
    def pad_id(self) -> int: ...

    @property
    def masked(self) -> bool:
        """Whether batches need an attention mask and positions."""
        ...

    def identity(self) -> dict[str, Any]:
        """All that the order depends on, as JSON."""
        ...

    def windows(self) -> int:
        """How many windows an epoch has."""
        ...

    def plan(self, epoch: int, window: int) -> list[Plan]:
        """The rows of a window, in their order."""
        ...


@dataclass(frozen=True)
class TokenRows:
    """Pre-training: rows of `seq_len` tokens cut from all documents laid end to end, in random order.

    Where the cuts fall differs by epoch. With `split_documents` no token attends to another document's, positions begin
    anew with each, and no target crosses over; without, a row is read as one text. `seed` None keeps the order.
    Raises DataError where there are fewer tokens than one row takes.
    """

    shards: Shards
    seq_len: int
    seed: int | None = 0
    split_documents: bool = False
    window: int = 1024

    def __post_init__(self) -> None:
        check_sizes(seq_len=self.seq_len, window=self.window)
        if self.shards.tokens <= self.seq_len:
            raise DataError(
                f"{self.shards.folder}: {self.shards.tokens} tokens are too few for a row of {self.seq_len}; "
                "take more data or a smaller seq_len"
            )

    @property
    def pad_id(self) -> int:
        return self.shards.pad_id

    @property
    def masked(self) -> bool:
        return self.split_documents

    @property
    def _rows(self) -> int:
        return self.shards.tokens // self.seq_len

    def identity(self) -> dict[str, Any]:
        return {
            "rows": "tokens",
            "data": self.shards.digest,
            "seq_len": self.seq_len,
            "seed": self.seed,
            "split_documents": self.split_documents,
            "window": self.window,
        }

    def windows(self) -> int:
        return -(-self._rows // self.window)

    def plan(self, epoch: int, window: int) -> list[Plan]:
        places = np.arange(window * self.window, min((window + 1) * self.window, self._rows))
        shift = 0
        if self.seed is not None:
            places = permuted(places, self._rows, self.seed, epoch)
            shift = int(uniform(self.seed, epoch, _SHIFT) * self.seq_len) if epoch else 0
        return [partial(self._load, shift + int(place) * self.seq_len) for place in places]

    def _load(self, start: int) -> Row:
        (ids, weights), begins = self.shards.span(start, self.seq_len + 1)
        T = self.seq_len
        inputs, targets, weights = ids[:-1], ids[1:], weights[1:]
        if (seam := (-start - 1) % self.shards.tokens) < T:
            weights[seam] = 0  # the very first token follows none, though the ring says the last
        if not self.split_documents:
            return Row(inputs, targets, weights, np.ones(T, np.int64), np.arange(T))
        begins[0] = True
        starts = np.maximum.accumulate(np.where(begins[:-1], np.arange(T), 0))
        return Row(
            inputs,
            targets,
            np.where(begins[1:], np.float32(0), weights),
            begins[:-1].cumsum(dtype=np.int64),
            np.arange(T) - starts,
        )


@dataclass(frozen=True)
class PackedRows:
    """Supervised: documents in random order, packed side by side into rows of at most `seq_len` tokens.

    No token attends to another document's. First-fit decreasing fills the rows of each window of documents, and the
    rows are shuffled again, as the fullest would come first. A document of n ids takes n - 1 places; one that takes
    more than `seq_len` raises DataError (encode with `max_length`). `seed` None keeps the documents' order, by window.
    """

    documents: Documents
    seq_len: int
    seed: int | None = 0
    window: int = 1024

    def __post_init__(self) -> None:
        check_sizes(seq_len=self.seq_len, window=self.window)
        _check_documents(self.documents)

    @property
    def pad_id(self) -> int:
        return self.documents.pad_id

    @property
    def masked(self) -> bool:
        return True

    def identity(self) -> dict[str, Any]:
        return {
            "rows": "packed",
            "data": self.documents.digest,
            "seq_len": self.seq_len,
            "seed": self.seed,
            "window": self.window,
        }

    def windows(self) -> int:
        return -(-len(self.documents) // self.window)

    def plan(self, epoch: int, window: int) -> list[Plan]:
        chosen = _documents_of(self.documents, self.seed, epoch, window, self.window)
        sizes = (self.documents.lengths(chosen) - 1).tolist()
        if max(sizes) > self.seq_len:
            raise DataError(
                f"document {chosen[int(np.argmax(sizes))]} takes {max(sizes)} places, more than a row of "
                f"{self.seq_len}; encode the data with a max_length of at most {self.seq_len + 1}"
            )
        bins = first_fit_decreasing(sizes, self.seq_len)
        if self.seed is None:
            bins.sort(key=min)
        else:
            order = permuted(np.arange(len(bins)), len(bins), self.seed, epoch, window, _WINDOW_ORDER)
            bins = [bins[at] for at in order]
        return [partial(self._load, [int(chosen[at]) for at in sorted(filled)]) for filled in bins]

    def _load(self, indices: list[int]) -> Row:
        return packed_row([self.documents[index] for index in indices])


@dataclass(frozen=True)
class PaddedRows:
    """Supervised: one document a row, in random order, padded on the right to the longest of its batch.

    With `bucket` > 0, documents of like length come together, in groups of `bucket` (the batch size is a good choice),
    which saves padding; the groups are shuffled. `seed` None keeps the documents' order.
    """

    documents: Documents
    seed: int | None = 0
    bucket: int = 0
    window: int = 1024

    def __post_init__(self) -> None:
        check_sizes(window=self.window, bucket=self.bucket + 1)
        _check_documents(self.documents)

    @property
    def pad_id(self) -> int:
        return self.documents.pad_id

    @property
    def masked(self) -> bool:
        return True

    def identity(self) -> dict[str, Any]:
        return {
            "rows": "padded",
            "data": self.documents.digest,
            "seed": self.seed,
            "bucket": self.bucket,
            "window": self.window,
        }

    def windows(self) -> int:
        return -(-len(self.documents) // self.window)

    def plan(self, epoch: int, window: int) -> list[Plan]:
        chosen = bucketed(self.documents, self.seed, epoch, window, self.window, self.bucket)
        return [partial(self._load, int(index)) for index in chosen]

    def _load(self, index: int) -> Row:
        return packed_row([self.documents[index]])


def check_sizes(**sizes: int) -> None:
    """Raise ConfigError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} is {size}; it has to be at least 1")


def bucketed(documents: Sized, seed: int | None, epoch: int, window: int, size: int, bucket: int) -> NDArray[np.int64]:
    """The documents of a window of `size`, in random order; with `bucket` > 0, groups of so many of like length."""
    chosen = _documents_of(documents, seed, epoch, window, size)
    if not bucket:
        return chosen
    chosen = chosen[np.argsort(documents.lengths(chosen), kind="stable")]
    groups = [chosen[at : at + bucket] for at in range(0, len(chosen), bucket)]
    if seed is not None:
        order = permuted(np.arange(len(groups)), len(groups), seed, epoch, window, _WINDOW_ORDER)
        groups = [groups[at] for at in order]
    return np.concatenate(groups)


def _check_documents(documents: Documents) -> None:
    if len(documents) == 0:
        raise DataError("there are no documents to make rows of")


def _documents_of(documents: Sized, seed: int | None, epoch: int, window: int, size: int) -> NDArray[np.int64]:
    places = np.arange(window * size, min((window + 1) * size, len(documents)))
    return places if seed is None else permuted(places, len(documents), seed, epoch)
