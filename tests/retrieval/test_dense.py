from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modelworks.data.document import Document
from modelworks.retrieval import dense as dense_module
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.dense import DenseIndex
from modelworks.retrieval.projection import Projection
from modelworks.retrieval.store import FileState, Store, text_hash
from modelworks.retrieval.where import compile_where

DIMENSION = 16
Vectors = NDArray[np.float32]


def unit(x_NC: Vectors) -> Vectors:
    return x_NC / np.linalg.norm(x_NC, axis=-1, keepdims=True)


@pytest.fixture
def vectors_NC() -> Vectors:
    """600 in clusters, as real ones are; an index with partitions can then miss whole clusters."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((12, DIMENSION))
    x = centres[rng.integers(0, 12, 600)] + 0.4 * rng.standard_normal((600, DIMENSION))
    return unit(x.astype(np.float16).astype(np.float32))


@pytest.fixture
def store(tmp_path: Path, vectors_NC: Vectors) -> Store:
    """Documents "0/0" to "9/59", six chunks of ten documents a page..., chunk i with vector i."""
    store = Store(tmp_path / "collection")
    store.bind_embedder("fake", DIMENSION)
    for i in range(600):
        name = f"{i % 10}/{i}"
        store.put_document(
            name,
            "/root",
            FileState(name.encode(), 1, None),
            Document("text", (), (), "text/plain"),
            [Chunk(0, 4, name)],
        )
    store.put_vectors("fake", [(text_hash(f"{i % 10}/{i}"), vectors_NC[i]) for i in range(600)])
    return store


@pytest.fixture(params=["memory", "approximate"])
def index(request: pytest.FixtureRequest, store: Store) -> DenseIndex:
    return DenseIndex(store, exact_limit=10_000 if request.param == "memory" else 100)


def names(store: Store, ranking: list[tuple[int, float]]) -> list[str]:
    chunks = store.chunks(chunk for chunk, _ in ranking)
    return [chunks[chunk].document for chunk, _ in ranking]


def nearest(
    vectors_NC: Vectors, query_C: Vectors, k: int, allowed: Callable[[int], bool] = lambda i: True
) -> list[str]:
    stored = vectors_NC.astype(np.float16).astype(np.float32)
    order = [int(i) for i in np.argsort(-(stored @ query_C), kind="stable") if allowed(int(i))]
    return [f"{i % 10}/{i}" for i in order[:k]]


def test_the_nearest_come_first_with_their_cosines(index: DenseIndex, store: Store, vectors_NC: Vectors) -> None:
    for i in range(0, 600, 60):
        ranking = index.search(vectors_NC[i], 10)
        assert names(store, ranking) == nearest(vectors_NC, vectors_NC[i], 10)
        assert ranking[0][1] == pytest.approx(1, abs=1e-3)
        assert [score for _, score in ranking] == sorted((score for _, score in ranking), reverse=True)


# Fault 8 (txtai#915), and recall lost by a filter on an approximate index.
@pytest.mark.parametrize(
    ("where", "allowed"),
    [
        ({"document": "7/497"}, lambda i: i == 497),
        ({"document": "3/*"}, lambda i: i % 10 == 3),
        ({"document": ["1/*", "2/*", "3/*", "4/*"]}, lambda i: i % 10 in (1, 2, 3, 4)),  # over the exact limit
    ],
)
def test_a_filter_costs_no_recall(
    index: DenseIndex,
    store: Store,
    vectors_NC: Vectors,
    where: dict[str, object],
    allowed: Callable[[int], bool],
) -> None:
    rng = np.random.default_rng(1)
    for query_C in unit(rng.standard_normal((20, DIMENSION)).astype(np.float32)):
        expected = nearest(vectors_NC, query_C, 5, allowed)
        positive = [
            name
            for name in expected
            if index.scores(query_C, [int(name.split("/")[1]) + 1])[int(name.split("/")[1]) + 1] > 0
        ]
        assert names(store, index.search(query_C, 5, compile_where(where))) == positive


def test_deleted_and_new_vectors_are_seen_at_once(index: DenseIndex, store: Store, vectors_NC: Vectors) -> None:
    query_C = vectors_NC[42]
    assert names(store, index.search(query_C, 1)) == ["2/42"]
    other = Store(store.folder)  # another process, as far as SQLite can tell
    other.exclude("2/42")
    assert "2/42" not in names(store, index.search(query_C, 50))
    document = Document("text", (), (), "text/plain")
    other.put_document("new", "/root", FileState(b"new", 1, None), document, [Chunk(0, 4, "new")])
    assert "new" not in names(store, index.search(query_C, 600))
    other.put_vectors("fake", [(text_hash("new"), query_C)])
    assert names(store, index.search(query_C, 1)) == ["new"]


def test_chunks_of_equal_text_are_all_found(index: DenseIndex, store: Store, vectors_NC: Vectors) -> None:
    document = Document("texttext", (), (), "text/plain")
    store.put_document("copy", "/root", FileState(b"c", 1, None), document, [Chunk(0, 4, "2/42"), Chunk(4, 8, "2/42")])
    assert sorted(names(store, index.search(vectors_NC[42], 3))) == ["2/42", "copy", "copy"]


def test_scores_are_of_the_chunks_asked_for(index: DenseIndex, vectors_NC: Vectors) -> None:
    query_C = vectors_NC[0]
    scores = index.scores(query_C, [1, 5, 9999])
    assert scores == pytest.approx({1: 1.0, 5: float(vectors_NC[4] @ query_C)}, abs=2e-3)
    assert index.scores(query_C, []) == {}


# Fault 12 (llama_index#821): hits with score 0 are dropped.
def test_what_points_away_is_no_hit(index: DenseIndex, vectors_NC: Vectors) -> None:
    ranking = index.search(-vectors_NC.mean(0) / np.linalg.norm(vectors_NC.mean(0)), 600)
    assert 0 < len(ranking) < 600
    assert all(score > 0 for _, score in ranking)


def test_more_than_there_is(index: DenseIndex, store: Store, vectors_NC: Vectors) -> None:
    assert len(index.search(vectors_NC[0], 10**6)) == int((vectors_NC.astype(np.float16) @ vectors_NC[0] > 0).sum())
    assert index.search(vectors_NC[0], 0) == []


def test_an_empty_store_has_no_hits(tmp_path: Path) -> None:
    store = Store(tmp_path / "empty")
    assert DenseIndex(store).search(np.ones(DIMENSION, np.float32), 5) == []
    assert DenseIndex(store).scores(np.ones(DIMENSION, np.float32), [1]) == {}


def test_the_matrix_is_read_once_while_nothing_changes(
    store: Store, vectors_NC: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = dense_module._read_matrix
    monkeypatch.setattr(dense_module, "_read_matrix", lambda store: reads.append(1) or read(store))
    index = DenseIndex(store)
    for _ in range(3):
        index.search(vectors_NC[0], 5)
    assert len(reads) == 1


def test_the_approximate_index_is_used_only_above_the_limit(store: Store, vectors_NC: Vectors) -> None:
    DenseIndex(store, exact_limit=600).search(vectors_NC[0], 5)
    assert not Projection.exists(store)
    index = DenseIndex(store, exact_limit=599)
    index.prepare()
    assert Projection.exists(store)
    store.forget("0/0")  # now small enough to do without
    index.prepare()
    assert not Projection.exists(store)
    assert names(store, index.search(vectors_NC[1], 1)) == ["1/1"]


def test_ties_are_cut_in_the_order_of_ids() -> None:
    ids, scores = np.arange(10, dtype=np.int64), np.array([0.5, 0.9] + [0.5] * 8, np.float32)
    assert dense_module._top(ids[::-1], scores[::-1], 3) == [(1, pytest.approx(0.9)), (0, 0.5), (2, 0.5)]
