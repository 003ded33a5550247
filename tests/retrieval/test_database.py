from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelworks.core.errors import StoreError
from modelworks.data.document import Document, Page
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.database import DATABASE, SCHEMA_VERSION, OldSchemaError
from modelworks.retrieval.store import FileState, Store


def put(store: Store, name: str, text: str = "some words") -> None:
    document = Document(text, (Page(1, 0, len(text)),), (), "text/plain")
    store.put_document(name, "/root", FileState(name.encode(), 1, None), document, [Chunk(0, len(text), text)])


def names(store: Store) -> list[str]:
    return [document.name for document in store.documents()]


def only_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "collection")
    put(store, "a")
    before = store.fingerprint()
    store.close()
    store.close()
    assert Store(tmp_path / "deep" / "collection").fingerprint() == before


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "a")
    before = store.fingerprint()
    pages = store.value("PRAGMA page_count")
    store.rows(f"PRAGMA max_page_count = {pages + 4}")  # SQLite's own SQLITE_FULL
    with pytest.raises(StoreError) as error:
        put(store, "big", "many different words " * 10_000)
    assert "disk is full: free some space and run again" in only_line(error)
    assert store.fingerprint() == before
    store.rows("PRAGMA max_page_count = 1000000")
    put(store, "big", "many different words " * 10_000)
    assert names(store) == ["a", "big"]


def test_a_writer_that_never_ends_is_reported(tmp_path: Path) -> None:
    store = Store(tmp_path, busy_timeout_s=0.05)
    put(store, "a")
    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError) as error:
        put(store, "b")
    assert "another process has been writing" in only_line(error)
    assert names(store) == ["a"]  # readers are not blocked
    other.execute("ROLLBACK")
    put(store, "b")
    assert names(store) == ["a", "b"]
    other.close()


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    timer.start()
    put(store, "a")
    timer.join()
    assert names(store) == ["a"]
    other.close()


@pytest.mark.parametrize("content", [b"not a database at all, just text" * 100, b"\x00" * 4096, b"x"])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(StoreError) as error:
        Store(tmp_path)
    assert "another folder for the collection" in only_line(error)
    assert (tmp_path / DATABASE).read_bytes() == content


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreError, match="not a modelworks collection"):
        Store(tmp_path)
    assert sqlite3.connect(tmp_path / DATABASE).execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


@pytest.mark.parametrize(
    ("version", "kind", "advice"),
    [(SCHEMA_VERSION + 1, StoreError, "upgrade modelworks"), (SCHEMA_VERSION - 1, OldSchemaError, "--rebuild")],
)
def test_another_schema_says_what_to_do(tmp_path: Path, version: int, kind: type[StoreError], advice: str) -> None:
    store = Store(tmp_path)
    store.rows(f"PRAGMA user_version = {version}")
    store.close()
    with pytest.raises(kind) as error:
        Store(tmp_path)
    assert f"schema {version}, this one reads {SCHEMA_VERSION}" in only_line(error)
    assert advice in str(error.value)


def test_a_damaged_database_says_how_to_make_it_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for i in range(200):
        put(store, f"{i}", f"words of document {i} " * 50)
    store.close()
    raw = bytearray((tmp_path / DATABASE).read_bytes())
    raw[4096 * 2 :] = os.urandom(len(raw) - 4096 * 2)
    (tmp_path / DATABASE).write_bytes(raw)
    with pytest.raises(StoreError) as error:
        Store(tmp_path).documents()
    assert "--rebuild" in only_line(error)
    Store.discard(tmp_path)
    assert names(Store(tmp_path)) == []


def test_discard_leaves_other_files(tmp_path: Path) -> None:
    Store(tmp_path).close()
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "vectors").mkdir()
    Store.discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_collections_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError) as error:
            Store(path)
        assert "folder" in only_line(error)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own they cannot."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of a POSIX system")
def test_a_read_only_collection_is_read_and_not_written(public: Path) -> None:
    store = Store(public / "collection")
    put(store, "a")
    store.close()
    for path in public.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    script = f"""
import os, sys
sys.path[:] = {sys.path!r}
from pathlib import Path
from modelworks.retrieval.store import Store
from modelworks.core.errors import StoreError
if os.getuid() == 0:
    os.setuid(65534)  # permissions do not bind root
store = Store(Path({str(public / "collection")!r}))
print(store.documents()[0].name)
try:
    store.exclude("a")
except StoreError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=public)
    assert result.returncode == 0, result.stderr
    read, refused = result.stdout.splitlines()
    assert read == "a"
    assert "it is read-only: change its permissions" in refused


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for i in range(10):
                put(store, f"{worker}/{i}")
                store.documents()
                store.fingerprint()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(names(store)) == 40


def test_snapshot_reads_one_state(tmp_path: Path) -> None:
    reader, writer = Store(tmp_path), Store(tmp_path)
    put(writer, "a")
    with reader.snapshot():
        assert names(reader) == ["a"]
        put(writer, "b")
        assert names(reader) == ["a"]
    assert names(reader) == ["a", "b"]


def test_the_revision_moves_with_every_change_by_anyone(tmp_path: Path) -> None:
    one, other = Store(tmp_path), Store(tmp_path)
    seen = [one.revision()]
    put(one, "a")
    seen.append(one.revision())
    put(other, "b")
    seen.append(one.revision())
    one.forget("b")
    seen.append(other.revision())
    assert seen == sorted(set(seen))
    one.forget("nothing")
    assert one.revision() == seen[-1]


def test_a_failed_transaction_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "a")
    before = store.fingerprint(), store.revision()
    document = Document("text", (), (), "text/plain")
    unwritable = [Chunk(0, 4, "text"), Chunk(0, 4, "\ud800")]  # a lone surrogate has no UTF-8
    with pytest.raises(UnicodeEncodeError):
        store.put_document("a", "/root", FileState(b"a", 1, None), document, unwritable)
    assert (store.fingerprint(), store.revision()) == before
