from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from indexer import WordEmbedder

from modelworks.core.errors import StoreError
from modelworks.retrieval.collection import Collection
from modelworks.retrieval.doctor import DoctorReport
from modelworks.retrieval.projection import Projection
from modelworks.retrieval.store import Store


@pytest.fixture
def store(collection: Collection, folder: Path) -> Store:
    """The store of a filled collection, opened a second time to damage it."""
    collection.sync(folder)
    return Store(collection.path)


def failed(report: DoctorReport) -> list[str]:
    return [check.name for check in report.checks if not check.ok]


def mended(collection: Collection, folder: Path, expected: str) -> None:
    """Repair, sync, and be as before."""
    assert collection.doctor(repair=True).ok
    collection.sync(folder)
    assert failed(collection.doctor()) == []
    assert collection.fingerprint() == expected


def test_a_sound_collection(collection: Collection, store: Store, folder: Path) -> None:
    report = collection.doctor()
    assert report.ok
    assert [check.name for check in report.checks] == [
        "database",
        "offsets",
        "words",
        "vectors",
        "orphans",
        "approximate index",
    ]
    assert report.checks[3].detail == "3 of 3 chunks embedded"


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        ("UPDATE chunks SET start = -1 WHERE id = 1", "offsets"),
        ('UPDATE chunks SET "end" = 10000 WHERE id = 2', "offsets"),
        ("UPDATE chunks SET last_page = 7 WHERE id = 1", "offsets"),
        ("UPDATE chunks SET ordinal = 5 WHERE id = 1", "offsets"),
        ("UPDATE documents SET text = substr(text, 1, 3) WHERE id = 1", "offsets"),
        ("DELETE FROM chunks WHERE id = 1", "offsets"),
        ("INSERT INTO chunks_fts (chunks_fts) VALUES ('delete-all')", "words"),
        ("DELETE FROM chunks_fts_data WHERE id > 10", "words"),
        ("UPDATE embeddings SET vector = x'0001' WHERE rowid = 1", "vectors"),
        ("UPDATE embeddings SET vector = CAST(zeroblob(190) || x'007e' AS BLOB) WHERE rowid = 2", "vectors"),  # a NaN
        ("INSERT INTO embeddings SELECT 'nobody', vector FROM embeddings LIMIT 1", "orphans"),
    ],
)
def test_damage_is_found_and_mended(
    collection: Collection, store: Store, folder: Path, damage: str, check: str
) -> None:
    expected = collection.fingerprint()
    with store._transaction() as connection:
        connection.execute(damage)
    report = collection.doctor()
    assert check in failed(report)
    assert not report.ok
    mended(collection, folder, expected)


def test_missing_vectors_are_work_to_do_and_repair_does_it(collection: Collection, store: Store) -> None:
    with store._transaction() as connection:
        connection.execute("DELETE FROM embeddings WHERE rowid = 1")
    report = collection.doctor()
    assert report.ok
    assert report.checks[3].detail == "2 of 3 chunks embedded"
    collection.doctor(repair=True)
    assert collection.coverage() == 1


def test_a_damaged_word_index_is_an_error_that_names_the_doctor(collection: Collection, store: Store) -> None:
    with store._transaction() as connection:
        connection.execute("DELETE FROM chunks_fts_data WHERE id > 10")
    with pytest.raises(StoreError, match="modelworks docs doctor --repair"):
        collection.search("diesel", mode="lexical")
    collection.doctor(repair=True)
    assert collection.search("diesel", mode="lexical")


def test_a_damaged_database_is_reported_not_raised(collection: Collection, store: Store) -> None:
    root = store.value("SELECT rootpage FROM sqlite_master WHERE name = 'chunks_by_text'")
    size = store.value("PRAGMA page_size")
    store.checkpoint()
    store.close()
    collection.close()
    database = collection.path / "collection.db"
    raw = bytearray(database.read_bytes())
    raw[(root - 1) * size : root * size] = b"\xff" * size
    database.write_bytes(raw)
    with Collection(collection.path, WordEmbedder()) as opened:
        report = opened.doctor(repair=True)
    assert not report.ok
    assert [check.name for check in report.checks] == ["database"]
    assert "--rebuild" in report.checks[0].detail


def test_the_approximate_index_is_compared_with_the_truth(tmp_path: Path, folder: Path, embedder: WordEmbedder) -> None:
    with Collection(tmp_path / "collection", embedder, exact_limit=1) as collection:
        collection.sync(folder)
        assert collection.doctor().checks[-1].detail == "mirrors the vectors"
        projection = Projection(collection._store)
        projection._open().delete("key IS NOT NULL")
        report = collection.doctor()
        assert failed(report) == ["approximate index"]
        assert report.checks[-1].detail == "lacks 3 vectors and has 0 deleted ones"
        assert collection.doctor(repair=True).ok
        assert failed(collection.doctor()) == []
        assert np.isclose(collection.search("diesel engine", mode="dense")[0].score, 1, atol=0.6)
