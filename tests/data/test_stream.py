"""Streams: they resume at the exact row, share rows out among ranks, mix by weight, and refuse another run's place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.data.rows import PackedRows, PaddedRows, Rows, TokenRows
from modelworks.data.shards import MemoryDocuments, Shards
from modelworks.data.stream import Mixture, Stream

KINDS = ("tokens", "split", "packed", "padded", "bucketed", "mixture")
LENGTHS = [3, 17, 8, 5, 12, 2, 9, 9, 14, 6, 11, 4, 7, 13, 10, 3, 5, 16, 2, 8]
reuses_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
MakeRows = Callable[..., Any]


@pytest.fixture(scope="module")
def _cache() -> dict[str, Shards]:
    return {}


@pytest.fixture
def make_rows(
    make_shards: Callable[..., Shards], make_documents: Callable[..., MemoryDocuments], _cache: dict[str, Shards]
) -> MakeRows:
    shards = _cache.get("shards") or _cache.setdefault("shards", make_shards(LENGTHS, shard_tokens=40))

    def make(kind: str, seed: int = 1) -> Rows | Mixture:
        if kind in ("tokens", "split"):
            return TokenRows(shards, seq_len=6, seed=seed, split_documents=kind == "split", window=5)
        if kind == "packed":
            return PackedRows(shards, seq_len=20, seed=seed, window=6)
        if kind == "mixture":
            parts = {"a": (make("split", seed), 3.0), "b": (make("packed", seed), 1.0)}
            return Mixture(parts, seed=seed)
        return PaddedRows(make_documents(LENGTHS), seed=seed, bucket=4 if kind == "bucketed" else 0, window=8)

    return make


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows_of(batches: list[dict[str, torch.Tensor]]) -> list[tuple[int, ...]]:
    """Each row's counted inputs and targets; blank rows left out."""
    rows = []
    for batch in batches:
        for ids, targets, weights in zip(batch["input_ids"], batch["targets"], batch["weights"]):
            if weights.any():
                rows.append(tuple(ids[weights > 0].tolist() + targets[weights > 0].tolist()))
    return rows


@pytest.mark.parametrize("kind", KINDS)
@reuses_fixtures
@given(stop=st.integers(0, 30), seed=st.integers(0, 3), batch_size=st.integers(1, 7))
def test_a_resumed_stream_goes_on_with_the_very_next_batch(
    kind: str, stop: int, seed: int, batch_size: int, make_rows: MakeRows
) -> None:
    straight = list(islice(Stream(make_rows(kind, seed), batch_size), stop + 4))
    stopped = Stream(make_rows(kind, seed), batch_size)
    for _ in islice(stopped, stop):
        pass
    resumed = Stream(make_rows(kind, seed), batch_size)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert all(same(*pair) for pair in zip(islice(resumed, 4), straight[stop:], strict=True))


@pytest.mark.parametrize("kind", KINDS[:-1])
@reuses_fixtures
@given(
    batch_size=st.integers(1, 4), worlds=st.lists(st.integers(1, 4), min_size=2, max_size=4), steps=st.integers(1, 3)
)
def test_ranks_share_the_rows_and_may_change_in_number(
    kind: str, batch_size: int, worlds: list[int], steps: int, make_rows: MakeRows
) -> None:
    """An epoch in stretches, each with another number of ranks, sees every row once, in the order of one rank."""
    rows = make_rows(kind)
    state = Stream(rows, batch_size, epochs=1).state()
    seen: list[tuple[int, ...]] = []
    for stretch, world in enumerate(worlds):
        streams = [Stream(rows, batch_size, epochs=1, rank=rank, world=world) for rank in range(world)]
        for stream in streams:
            stream.restore(state)
        count = None if stretch == len(worlds) - 1 else steps
        by_rank = [list(islice(stream, count)) for stream in streams]
        assert len({len(batches) for batches in by_rank}) == 1  # or a collective would wait for ever
        for batches in zip(*by_rank):
            assert len({len(batch["input_ids"]) for batch in batches}) == 1
            seen += rows_of(list(batches))
        states = [stream.state() for stream in streams]
        assert all(each == states[0] for each in states)
        state = states[0]
    assert seen == rows_of(list(Stream(rows, 1, epochs=1)))


def test_a_mixture_is_shared_out_among_ranks_too(make_rows: MakeRows) -> None:
    alone = rows_of(list(islice(Stream(make_rows("mixture"), 6), 5)))
    streams = [Stream(make_rows("mixture"), 2, rank=rank, world=3) for rank in range(3)]
    together = [rows_of(list(batches)) for batches in islice(zip(*streams), 5)]
    assert [row for batch in together for row in batch] == alone


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_epochs_end(kind: str, make_rows: MakeRows) -> None:
    rows = make_rows(kind)
    for batch_size, world in ((1, 1), (3, 1), (4, 3), (50, 2)):
        stream = Stream(rows, batch_size, epochs=2, rank=world - 1, world=world)
        count = stream.batches()
        assert count == len(list(stream))
        assert list(stream) == []
        again = Stream(rows, batch_size, epochs=2)
        again.restore(stream.state())
        assert list(again) == []
    assert Stream(rows, 1).batches() is None


def test_batches_cross_epochs_without_losing_rows(make_rows: MakeRows) -> None:
    rows = make_rows("padded")
    batches = list(islice(Stream(rows, 8), 5))  # 20 rows an epoch
    assert all(len(batch["input_ids"]) == 8 for batch in batches)
    counts = Counter(rows_of(batches))
    assert len(counts) == 20
    assert set(counts.values()) == {2}


def test_seeds_decide(make_rows: MakeRows) -> None:
    for kind in KINDS:
        first, again, other = (next(iter(Stream(make_rows(kind, seed), 4))) for seed in (1, 1, 2))
        assert same(first, again)
        assert not same(first, other)


def test_a_length_holds_for_all_batches(make_rows: MakeRows) -> None:
    assert {batch["input_ids"].shape for batch in islice(Stream(make_rows("padded"), 4, length=32), 9)} == {(4, 32)}


# --- mixing -----------------------------------------------------------------------------------------------------------


def test_rows_are_mixed_by_weight(make_documents: Callable[..., MemoryDocuments]) -> None:
    few, many = (PaddedRows(make_documents([4] * 10, start=start)) for start in (0, 1000))
    drawn = rows_of(list(islice(Stream(Mixture({"few": (few, 1), "many": (many, 3)}, seed=4), 10), 200)))
    from_many = sum(row[0] >= 1000 for row in drawn)
    assert abs(from_many - 1500) < 3.3 * (2000 * 0.25 * 0.75) ** 0.5
    assert {row[0] >= 1000 for row in drawn[:20]} == {True, False}  # within batches, not batch by batch


def test_bad_mixtures_are_refused(make_rows: MakeRows) -> None:
    with pytest.raises(ConfigError, match="no parts"):
        Mixture({})
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="the weight of 'a'"):
            Mixture({"a": (make_rows("packed"), weight)})
    with pytest.raises(ConfigError, match="a mixture has no epochs"):
        Stream(make_rows("mixture"), 1, epochs=1)


# --- another run's place ----------------------------------------------------------------------------------------------


def test_the_place_in_other_data_is_refused(
    make_rows: MakeRows, make_documents: Callable[..., MemoryDocuments]
) -> None:
    state = Stream(PackedRows(make_documents([3, 4]), seq_len=8), 1).state()
    with pytest.raises(ConfigError, match="of other data"):
        Stream(PackedRows(make_documents([3, 5]), seq_len=8), 1).restore(state)
    with pytest.raises(ConfigError, match="seq_len=8, not 9"):
        Stream(PackedRows(make_documents([3, 4]), seq_len=9), 1).restore(state)
    with pytest.raises(ConfigError, match="seed=0, not 1"):
        Stream(PackedRows(make_documents([3, 4]), seq_len=8, seed=1), 1).restore(state)
    with pytest.raises(ConfigError, match="of packed rows, not padded"):
        Stream(PaddedRows(make_documents([3, 4])), 1).restore(state)
    with pytest.raises(ConfigError, match="of no known kind of rows, not mixture"):
        Stream(make_rows("mixture"), 1).restore({})
    mixed = Stream(make_rows("mixture"), 1).state()
    mixed["parts"]["b"] = state
    with pytest.raises(ConfigError, match="b: the saved place in the data is of other data"):
        Stream(make_rows("mixture"), 1).restore(mixed)


@pytest.mark.parametrize("place", [{"row": -1}, {"row": "x"}, {"epoch": None}, {"window": 10**9}])
def test_a_damaged_place_is_refused(place: dict[str, Any], make_rows: MakeRows) -> None:
    stream = Stream(make_rows("packed"), 1)
    with pytest.raises(ConfigError, match="place in the data"):
        stream.restore(stream.state() | place)


@pytest.mark.parametrize("numbers", [{"batch_size": 0}, {"world": 0}, {"rank": 2, "world": 2}, {"epochs": 0}])
def test_numbers_out_of_range_are_refused(numbers: dict[str, int], make_rows: MakeRows) -> None:
    with pytest.raises(ConfigError):
        Stream(make_rows("packed"), **({"batch_size": 1} | numbers))
