"""Orders of rows: all tokens once an epoch, nothing across documents, the seed decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, DataError
from modelworks.data.collate import Row
from modelworks.data.rows import PackedRows, PaddedRows, Rows, TokenRows
from modelworks.data.shards import MemoryDocuments, Shards, write_shards
from modelworks.text.tokenizer import Tokenizer


def epoch(rows: Rows, number: int = 0) -> list[Row]:
    return [plan() for window in range(rows.windows()) for plan in rows.plan(number, window)]


def learned(rows: list[Row]) -> list[tuple[int, int]]:
    """Each input with its target, where that counts."""
    return [
        (int(i), int(t)) for row in rows for i, t, w in zip(row.input_ids, row.targets, row.weights, strict=True) if w
    ]


# --- pre-training -----------------------------------------------------------------------------------------------------


def test_every_token_is_a_target_once_an_epoch(make_shards: Callable[..., Shards]) -> None:
    shards = make_shards([30, 7, 100, 63], shard_tokens=50)
    for number in range(3):
        rows = epoch(TokenRows(shards, seq_len=20, seed=5, window=3), number)
        assert len(rows) == 10
        assert sorted(int(token) for row in rows for token in row.targets) == sorted(range(200))
        assert all(row.targets[:-1].tolist() == row.input_ids[1:].tolist() for row in rows)
        assert sorted(target for _, target in learned(rows)) == list(range(1, 200))  # the first follows none


def test_epochs_differ_in_order_and_in_cuts(make_shards: Callable[..., Shards]) -> None:
    rows = TokenRows(make_shards([200]), seq_len=20, seed=5)
    first, second = ([int(row.input_ids[0]) for row in epoch(rows, number)] for number in (0, 1))
    assert first != sorted(first)
    assert {start % 20 for start in first} != {start % 20 for start in second}
    assert first == [int(row.input_ids[0]) for row in epoch(rows)]
    assert first != [int(row.input_ids[0]) for row in epoch(TokenRows(rows.shards, seq_len=20, seed=6))]
    unshuffled = epoch(TokenRows(rows.shards, seq_len=20, seed=None))
    assert [int(row.input_ids[0]) for row in unshuffled] == list(range(0, 200, 20))


def test_split_documents_stay_apart(make_shards: Callable[..., Shards]) -> None:
    """training.md 7 (trl#1230)."""
    rows = TokenRows(make_shards([5, 3, 8, 9]), seq_len=12, seed=None, split_documents=True)
    first, second = epoch(rows)
    assert first.documents.tolist() == [1] * 5 + [2] * 3 + [3] * 4
    assert first.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]
    assert first.weights.tolist() == [1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1]
    assert second.documents.tolist() == [1] * 4 + [2] * 8  # it begins in the midst of a document, which counts from 0
    assert second.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]
    assert second.weights.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 12), min_size=2, max_size=20), st.integers(1, 10), st.integers(0, 3), st.integers(0, 2))
def test_split_rows_learn_every_token_that_follows_one_of_its_document(
    tokenizer: Tokenizer, lengths: list[int], seq_len: int, seed: int, number: int
) -> None:
    """Where the rows' length divides the tokens; else those few that an epoch's cuts leave over are missing."""
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    if total <= seq_len:
        return
    with TemporaryDirectory() as folder:
        with write_shards(Path(folder, "s"), tokenizer, shard_tokens=15) as writer:
            for n, end in zip(lengths, ends):
                writer.add(np.arange(end - n, end))
        rows = TokenRows(Shards(Path(folder, "s")), seq_len, seed=seed, split_documents=True, window=3)
        found = learned(epoch(rows, number))
    possible = {(at, at + 1) for n, end in zip(lengths, ends) for at in range(end - n, end - 1)}
    assert len(found) == len(set(found))
    assert set(found) <= possible
    assert len(found) >= len(possible) - total % seq_len


def test_too_few_tokens_are_an_error(make_shards: Callable[..., Shards]) -> None:
    with pytest.raises(DataError, match="20 tokens are too few for a row of 20"):
        TokenRows(make_shards([20]), seq_len=20)
    with pytest.raises(ConfigError, match="seq_len is 0"):
        TokenRows(make_shards([20]), seq_len=0)


# --- supervised -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 9), st.booleans())
def test_each_document_is_there_once_an_epoch(lengths: list[int], window: int, seed: int, packed: bool) -> None:
    ends = 10 + np.cumsum(lengths)
    documents = MemoryDocuments([(np.arange(end - n, end), np.ones(n)) for n, end in zip(lengths, ends)])
    expected = sorted((at, at + 1) for n, end in zip(lengths, ends) for at in range(end - n, end - 1))
    rows: Rows = (
        PackedRows(documents, seq_len=25, seed=seed, window=window)
        if packed
        else PaddedRows(documents, seed=seed, window=window, bucket=seed)
    )
    for number in (0, 1):
        made = epoch(rows, number)
        assert sorted(learned(made)) == expected
        for row in made:
            assert len(row.input_ids) <= 25
            starts = np.flatnonzero(np.diff(row.documents, prepend=0))
            assert (row.positions[starts] == 0).all()
            assert (np.diff(row.positions)[np.diff(row.documents) == 0] == 1).all()


def test_packing_wastes_little(make_documents: Callable[..., MemoryDocuments]) -> None:
    lengths = np.random.default_rng(0).integers(10, 300, 1000).tolist()
    rows = epoch(PackedRows(make_documents(lengths), seq_len=512))
    assert sum(len(row.input_ids) for row in rows) / (len(rows) * 512) > 0.98


def test_packed_rows_come_shuffled(make_documents: Callable[..., MemoryDocuments]) -> None:
    lengths = np.random.default_rng(0).integers(10, 500, 400).tolist()
    fill = np.array([len(row.input_ids) for row in epoch(PackedRows(make_documents(lengths), seq_len=512))])
    assert abs(fill[: len(fill) // 2].mean() - fill[len(fill) // 2 :].mean()) < 20


def test_without_a_seed_documents_keep_their_order(make_documents: Callable[..., MemoryDocuments]) -> None:
    documents = make_documents([4, 9, 2, 7])
    assert [len(row.input_ids) for row in epoch(PaddedRows(documents, seed=None))] == [3, 8, 1, 6]
    packed = epoch(PackedRows(documents, seq_len=10, seed=None))
    assert learned(packed)[0] == (10, 11)


def test_buckets_save_padding(make_documents: Callable[..., MemoryDocuments]) -> None:
    documents = make_documents(np.random.default_rng(0).integers(5, 500, 512).tolist())

    def padding(rows: list[Row]) -> int:
        lengths = [len(row.input_ids) for row in rows]
        return sum(max(lengths[at : at + 8]) * 8 - sum(lengths[at : at + 8]) for at in range(0, 512, 8))

    assert padding(epoch(PaddedRows(documents, bucket=8))) < 0.05 * padding(epoch(PaddedRows(documents)))


def test_a_document_longer_than_a_row_is_an_error(make_documents: Callable[..., MemoryDocuments]) -> None:
    with pytest.raises(DataError, match="document 1 takes 11 places, more than a row of 10"):
        PackedRows(make_documents([5, 12]), seq_len=10, seed=None).plan(0, 0)
    with pytest.raises(DataError, match="no documents"):
        PackedRows(make_documents([]), seq_len=10)
