from __future__ import annotations

import builtins
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelworks.core.errors import StoreError
from modelworks.data.document import Document
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.database import VECTORS
from modelworks.retrieval.projection import Projection
from modelworks.retrieval.store import FileState, Store, text_hash

DIMENSION = 8
ROWS = 300


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "collection")
    store.bind_embedder("fake", DIMENSION)
    put(store, range(ROWS))
    return store


def put(store: Store, numbers: range) -> None:
    for i in numbers:
        document = Document("text", (), (), "text/plain")
        store.put_document(str(i), "/root", FileState(b"%d" % i, 1, None), document, [Chunk(0, 4, str(i))])
    vectors = np.random.default_rng(numbers.start).standard_normal((len(numbers), DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store.put_vectors("fake", [(text_hash(str(i)), vector) for i, vector in zip(numbers, vectors, strict=True)])


def test_it_mirrors_what_is_added_and_deleted(store: Store) -> None:
    projection = Projection(store)
    assert (len(projection.differences()[0]), projection.differences()[1]) == (ROWS, [])
    projection.level()
    assert projection.differences() == ([], [])
    store.forget("7")
    put(store, range(ROWS, ROWS + 5))
    missing, stale = projection.differences()
    assert sorted(missing) == sorted(text_hash(str(i)) for i in range(ROWS, ROWS + 5))
    assert stale == [text_hash("7")]
    projection.level()
    assert projection.differences() == ([], [])


def test_a_level_mirror_is_not_compared_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    projection = Projection(store)
    projection.level()
    monkeypatch.setattr(projection, "differences", lambda: pytest.fail("compared again"))
    projection.level()
    assert len(projection.search(np.ones(DIMENSION, np.float32), 5)) == 5


def test_a_lost_or_damaged_mirror_is_made_anew(store: Store) -> None:
    Projection(store).level()
    shutil.rmtree(store.folder / VECTORS)
    projection = Projection(store)
    assert len(projection.search(np.ones(DIMENSION, np.float32), 5)) == 5
    assert projection.differences() == ([], [])
    for path in (store.folder / VECTORS).rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    for mirror in (projection, Projection(store)):
        assert len(mirror.search(np.ones(DIMENSION, np.float32), 5)) == 5
        assert mirror.differences() == ([], [])


def test_another_models_vectors_replace_the_mirror(store: Store) -> None:
    Projection(store).level()
    store.bind_embedder("wider", 2 * DIMENSION, replace=True)
    pending = store.pending(1000)
    store.put_vectors("wider", [(key, np.full(2 * DIMENSION, 0.25, np.float32)) for _, key, _ in pending])
    projection = Projection(store)
    assert len(projection.search(np.ones(2 * DIMENSION, np.float32), 3)) == 3
    assert projection.differences() == ([], [])


def test_two_processes_may_level_at_once(store: Store) -> None:
    one, other = Projection(store), Projection(Store(store.folder))
    missing, _ = one.differences()
    other.level()
    one._add(one._open(), missing)  # what `one` had found missing is there by now
    query_C = np.ones(DIMENSION, np.float32)
    assert len(set(one.search(query_C, ROWS))) == ROWS
    assert one.search(query_C, 5) == other.search(query_C, 5)


def test_without_lancedb_the_error_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if name == "lancedb":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(StoreError, match=r"pip install 'modelworks\[vectors\]'"):
        Projection(store)
