from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import indexer
import pytest
from indexer import WordEmbedder, paragraphs

from modelworks.core.errors import ConfigError, DocumentError
from modelworks.data.document import Document
from modelworks.retrieval import sync as sync_module
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.collection import Collection
from modelworks.retrieval.store import Store
from modelworks.retrieval.sync import Sync, SyncReport

Write = Callable[[Path, str], Path]


def outcomes(report: SyncReport) -> dict[str, str]:
    return {file.name: file.outcome for file in report.files}


# Fault 4 (llama_index#13461): a second run grows the store.
def test_a_second_run_changes_nothing(collection: Collection, folder: Path, embedder: WordEmbedder) -> None:
    report = collection.sync(folder)
    assert outcomes(report) == dict.fromkeys(["animals/cats.md", "animals/dogs.md", "engines.txt"], "added")
    assert report.embedded == report.chunks_added == len(embedder.embedded) > 0
    before = collection.fingerprint()
    again = collection.sync(folder)
    assert set(outcomes(again).values()) == {"unchanged"}
    assert (again.embedded, again.chunks_added, again.chunks_removed) == (0, 0, 0)
    assert collection.fingerprint() == before


# Fault 6 (langchain#28447, #32612).
def test_an_edit_costs_only_what_it_changed(collection: Collection, folder: Path, write: Write) -> None:
    parts = ["# A\n\nalpha beta\n", "# B\n\ngamma delta\n", "# C\n\nepsilon zeta\n"]
    write(folder / "abc.md", "\n".join(parts))
    assert collection.sync(folder).chunks_added == 6
    write(folder / "abc.md", "\n".join([parts[0], parts[2]]))
    report = collection.sync(folder)
    assert outcomes(report)["abc.md"] == "updated"
    assert (report.chunks_removed, report.chunks_added, report.embedded) == (1, 0, 0)
    assert collection.search("gamma", mode="lexical") == []
    write(folder / "abc.md", "\n".join([parts[0], "# B\n\nnew words\n", parts[2]]))
    report = collection.sync(folder)
    assert (report.chunks_removed, report.chunks_added, report.embedded) == (0, 1, 1)


def test_a_new_time_alone_changes_nothing(collection: Collection, folder: Path) -> None:
    collection.sync(folder)
    os.utime(folder / "engines.txt")
    for _ in range(2):  # the second run finds a time too fresh to trust, and looks at the content
        report = collection.sync(folder)
        assert outcomes(report)["engines.txt"] == "unchanged"
        assert report.chunks_added == 0


def test_an_edit_within_a_tick_of_the_clock_is_seen(collection: Collection, folder: Path) -> None:
    (folder / "a.txt").write_text("first")
    fresh = (folder / "a.txt").stat()
    collection.sync(folder)
    (folder / "a.txt").write_text("again")  # as long as before
    os.utime(folder / "a.txt", ns=(fresh.st_atime_ns, fresh.st_mtime_ns))
    assert outcomes(collection.sync(folder))["a.txt"] == "updated"
    assert collection.document_text("a.txt") == "again"


def test_a_rename_keeps_chunks_and_vectors(collection: Collection, folder: Path, embedder: WordEmbedder) -> None:
    collection.sync(folder)
    embedder.embedded.clear()
    (folder / "pets").mkdir()
    (folder / "animals/cats.md").rename(folder / "pets/felines.md")
    report = collection.sync(folder)
    [renamed] = [file for file in report.files if file.outcome == "renamed"]
    assert (renamed.name, renamed.detail) == ("pets/felines.md", "was animals/cats.md")
    assert report.counts == {"renamed": 1, "unchanged": 2}
    assert embedder.embedded == []
    assert collection.search("cat windowsill")[0].document == "pets/felines.md"
    assert "animals/cats.md" not in [document.name for document in collection.documents()]


def test_text_that_moves_to_another_file_keeps_its_vector(
    collection: Collection, folder: Path, embedder: WordEmbedder, write: Write
) -> None:
    collection.sync(folder)
    embedder.embedded.clear()
    moved = (folder / "animals/cats.md").read_text()
    (folder / "animals/cats.md").unlink()
    write(folder / "zoo.md", moved + "\n# Zebras\n\nA zebra has stripes.\n")
    report = collection.sync(folder)
    assert outcomes(report)["animals/cats.md"] == "removed"
    assert outcomes(report)["zoo.md"] == "added"
    assert [text for text in embedder.embedded if "windowsill" in text] == []
    assert report.embedded == 1


def test_a_deleted_file_goes(collection: Collection, folder: Path) -> None:
    collection.sync(folder)
    (folder / "engines.txt").unlink()
    report = collection.sync(folder)
    assert outcomes(report)["engines.txt"] == "removed"
    assert report.chunks_removed == 1
    assert not [hit for hit in collection.search("diesel engine") if hit.document == "engines.txt"]


# Fault 12 (llama_index#821): an empty file aborts.
def test_bad_files_are_lines_in_the_report(collection: Collection, folder: Path, write: Write) -> None:
    write(folder / "empty.md", "")
    write(folder / "blank.txt", " \n\n ")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 64)
    (folder / "latin.txt").write_bytes("Käse aus Köln und Zürich".encode("latin-1"))
    os.mkfifo(folder / "pipe.txt")
    report = collection.sync(folder)
    skipped = {file.name: file.detail for file in report.skipped}
    assert skipped.keys() == {"empty.md", "blank.txt", "binary.txt", "pipe.txt"}
    assert "empty" in skipped["empty.md"]
    assert skipped["pipe.txt"] == "not a regular file"
    assert all("\n" not in reason and reason for reason in skipped.values())
    assert outcomes(report)["latin.txt"] == "added"
    stored = {document.name: document.reason for document in collection.documents() if document.status == "skipped"}
    assert stored.keys() == skipped.keys() - {"pipe.txt"}
    again = collection.sync(folder)
    assert {file.name: file.detail for file in again.skipped} == skipped


def test_a_file_that_becomes_good_is_taken_in(collection: Collection, folder: Path, write: Write) -> None:
    write(folder / "late.md", "")
    collection.sync(folder)
    write(folder / "late.md", "It has words now.")
    assert outcomes(collection.sync(folder))["late.md"] == "updated"
    write(folder / "late.md", "")
    assert outcomes(collection.sync(folder))["late.md"] == "skipped"
    assert collection.search("words", mode="lexical") == []


def test_files_that_vanish_or_change_meanwhile_are_reported(tmp_path: Path, write: Write) -> None:
    root = tmp_path / "docs"
    for name in ("a", "b", "c"):
        write(root / f"{name}.txt", f"text of {name}")

    def meddling(path: Path) -> tuple[Document, Sequence[Chunk]]:
        result = paragraphs(path)
        if path.name == "a.txt":
            path.unlink()
        if path.name == "b.txt":
            path.write_text("something longer than before")
        return result

    store = Store(tmp_path / "collection")
    run = Sync(store, root, meddling)
    run.run()
    assert {name: (file.outcome, file.detail) for name, file in run.files.items()} == {
        "a.txt": ("skipped", "it vanished while the folder was being read"),
        "b.txt": ("skipped", "it changed while it was being read: run again"),
        "c.txt": ("added", ""),
    }
    assert [document.name for document in store.documents()] == ["c.txt"]
    run = Sync(store, root, paragraphs)
    run.run()
    assert {name: file.outcome for name, file in run.files.items()} == {"b.txt": "added", "c.txt": "unchanged"}


def test_what_cannot_be_read_now_keeps_what_was_indexed(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "docs"
    write(root / "shut/a.txt", "in a folder")
    write(root / "b.txt", "before")
    store = Store(tmp_path / "collection")
    Sync(store, root, paragraphs).run()
    write(root / "b.txt", "after, and longer")
    scandir, stat = os.scandir, Path.stat

    def refuse(path: Path) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    def refuse_stat(path: Path, **options: Any) -> Any:
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        patch.setattr(Path, "stat", refuse_stat)
        run = Sync(store, root, paragraphs)
        run.run()
    assert run.files["shut/"].detail == "folder cannot be read: Permission denied"
    assert run.files["b.txt"].detail == "Permission denied; what was indexed before is kept"
    assert [document.name for document in store.documents()] == ["b.txt", "shut/a.txt"]
    assert store.document("b.txt").text == "before"


def test_a_missing_folder_is_an_error_and_deletes_nothing(collection: Collection, folder: Path) -> None:
    collection.sync(folder)
    before = collection.fingerprint()
    folder.rename(folder.with_name("unmounted"))
    for wrong in (folder, folder.with_name("unmounted") / "engines.txt"):
        with pytest.raises(DocumentError, match="name a folder that can be read"):
            collection.sync(wrong)
    assert collection.fingerprint() == before


def test_a_moved_folder_is_known_again(collection: Collection, folder: Path) -> None:
    collection.sync(folder)
    before = collection.fingerprint()
    moved = folder.rename(folder.with_name("elsewhere"))
    report = collection.sync(moved)
    assert set(outcomes(report).values()) == {"unchanged"}
    assert collection.fingerprint() == before


def test_two_folders_share_a_collection(collection: Collection, folder: Path, tmp_path: Path, write: Write) -> None:
    collection.sync(folder)
    write(tmp_path / "more/extra.md", "A tractor ploughs.")
    write(tmp_path / "more/engines.txt", "Another text of a name that is taken.")
    report = collection.sync(tmp_path / "more")
    assert outcomes(report) == {"extra.md": "added", "engines.txt": "skipped"}
    assert str(folder) in report.skipped[0].detail
    assert len(collection.documents()) == 4
    assert "diesel" in collection.document_text("engines.txt")


def test_what_is_left_out_stays_out_until_another_is_said(
    collection: Collection, folder: Path, write: Write, tmp_path: Path
) -> None:
    write(folder / ".secret.md", "A hidden tractor.")
    report = collection.sync(folder, ignore=["*.txt"], hidden=True)
    assert "engines.txt" not in outcomes(report)
    assert outcomes(report)[".secret.md"] == "added"
    again = outcomes(collection.sync(folder))
    assert "engines.txt" not in again
    assert again[".secret.md"] == "unchanged"
    folder = folder.rename(tmp_path / "moved")
    assert "engines.txt" not in outcomes(collection.sync(folder))
    assert outcomes(collection.sync(folder, ignore=()))["engines.txt"] == "added"
    assert outcomes(collection.sync(folder, ignore=["*.txt"], hidden=False))["engines.txt"] == "removed"
    assert ".secret.md" not in outcomes(collection.sync(folder))


def test_removed_documents_stay_out_until_restored(collection: Collection, folder: Path, write: Write) -> None:
    collection.sync(folder)
    collection.remove("engines.txt")
    assert outcomes(collection.sync(folder))["engines.txt"] == "excluded"
    write(folder / "engines.txt", "An edited diesel engine.")
    assert outcomes(collection.sync(folder))["engines.txt"] == "excluded"
    (folder / "engines.txt").unlink()
    collection.sync(folder)
    write(folder / "engines.txt", "A diesel engine is back.")
    assert outcomes(collection.sync(folder))["engines.txt"] == "excluded"
    collection.restore("engines.txt")
    assert outcomes(collection.sync(folder))["engines.txt"] == "added"


def test_a_removed_document_stays_out_under_a_new_name(collection: Collection, folder: Path) -> None:
    collection.sync(folder)
    collection.remove("engines.txt")
    (folder / "engines.txt").rename(folder / "motors.txt")
    assert outcomes(collection.sync(folder))["motors.txt"] == "excluded"
    assert collection.search("diesel", mode="lexical") == []


def test_words_answer_before_there_are_vectors(collection: Collection, folder: Path, embedder: WordEmbedder) -> None:
    collection.sync(folder, embed=False)
    assert embedder.embedded == []
    hits = collection.search("diesel")
    assert [hit.document for hit in hits] == ["engines.txt"]
    assert hits.coverage == 0
    assert embedder.embedded == []  # not even the query
    assert collection.embed() == 3
    assert collection.search("diesel").coverage == 1


def test_embedding_goes_on_where_it_was_cut_off(
    collection: Collection, folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch, embedder: WordEmbedder
) -> None:
    for i in range(20):
        write(folder / f"{i}.txt", f"document number {i}")
    monkeypatch.setattr(sync_module, "_EMBEDDED_AT_ONCE", 4)
    embed = embedder.embed

    def failing(texts: Sequence[str]) -> Any:
        if len(embedder.embedded) >= 8:
            raise KeyboardInterrupt
        return embed(texts)

    monkeypatch.setattr(embedder, "embed", failing)
    with pytest.raises(KeyboardInterrupt):
        collection.sync(folder)
    assert collection.coverage() == pytest.approx(8 / 23)
    monkeypatch.setattr(embedder, "embed", embed)
    assert collection.sync(folder).embedded == 15
    assert max(Counter(embedder.embedded).values()) == 1


def test_embedding_ends_when_its_time_is_up(
    collection: Collection, folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch, embedder: WordEmbedder
) -> None:
    for i in range(60):
        write(folder / f"{i}.txt", f"document number {i}")
    collection.sync(folder, embed=False)
    embed = embedder.embed
    monkeypatch.setattr(embedder, "embed", lambda texts: (time.sleep(0.05), embed(texts))[1])
    done = collection.embed(seconds=0.01)
    assert 0 < done < 63
    assert collection.embed() == 63 - done
    assert collection.coverage() == 1


def test_worker_processes_give_the_same_store(tmp_path: Path, write: Write) -> None:
    root = tmp_path / "docs"
    for i in range(9):
        write(root / f"{i}.txt", f"first of {i}\n\nsecond of {i}")
    write(root / "3b.txt", "broken")
    stores = [Store(tmp_path / "one"), Store(tmp_path / "two")]
    reports = []
    for workers, store in enumerate(stores, 1):
        run = Sync(store, root, paragraphs, workers=workers)
        run.run()
        reports.append(run.files)
    assert reports[0] == reports[1]
    assert stores[0].fingerprint() == stores[1].fingerprint()


def test_a_reader_that_dies_costs_its_file_only(tmp_path: Path, write: Write) -> None:
    root = tmp_path / "docs"
    for i in range(4):
        write(root / f"{i}.txt", f"text {i}")
    write(root / "1b.txt", "crash")
    store = Store(tmp_path / "collection")
    run = Sync(store, root, paragraphs, workers=2)
    run.run()
    assert {name for name, file in run.files.items() if file.outcome == "added"} == {f"{i}.txt" for i in range(4)}
    assert run.files["1b.txt"].detail.startswith("its reader crashed")


def test_workers_that_cannot_start_blame_no_file(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "docs/a.txt", "text")

    class Unpicklable:
        def __call__(self, path: Path) -> tuple[Document, Sequence[Chunk]]:
            return paragraphs(path)

        def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
            return os.abort, ()  # unpickling it in the worker ends the worker

    store = Store(tmp_path / "collection")
    with pytest.raises(ConfigError, match="workers=1"):
        Sync(store, tmp_path / "docs", Unpicklable(), workers=2).run()
    assert store.documents() == []


# Fault 11 (mempalace#1092): two writers corrupt.
def test_three_writers_at_once_give_an_exact_count(tmp_path: Path, write: Write, embedder: WordEmbedder) -> None:
    root = tmp_path / "docs"
    for i in range(30):
        write(root / f"{i}.txt", f"first part of {i}\n\nsecond part of {i}")
    command = [sys.executable, indexer.__file__, str(tmp_path / "together"), str(root)]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    with Collection(tmp_path / "alone", embedder) as alone, Collection(tmp_path / "together", embedder) as together:
        alone.sync(root)
        assert len(together.documents()) == 30
        assert together.fingerprint() == alone.fingerprint()
        assert together.doctor().ok


def kill_and_finish(tmp_path: Path, write: Write, times: int) -> None:
    """Kill an index run at random points; each time the next run must end with the undisturbed store."""
    root = tmp_path / "docs"
    for i in range(60):
        write(
            root / f"{i % 7}/{i}.md", f"# Part {i}\n\n" + "\n\n".join(f"Fact {j} of {i} is {i * j}." for j in range(9))
        )
    command = [sys.executable, indexer.__file__]
    began = time.perf_counter()
    with Collection(tmp_path / "undisturbed", WordEmbedder()) as undisturbed:
        undisturbed.sync(root)
        expected = undisturbed.fingerprint()
    duration = time.perf_counter() - began
    rng = random.Random(0)
    killed = 0
    for attempt in range(times):
        path = tmp_path / f"killed{attempt}"
        process = subprocess.Popen([*command, str(path), str(root)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, duration))
        process.kill()
        process.stdout.close()
        killed += process.wait() == -signal.SIGKILL
        with Collection(path, WordEmbedder()) as collection:
            assert collection.doctor().ok or not collection.documents()
            collection.sync(root)
            assert collection.fingerprint() == expected
            assert collection.doctor().ok
    assert killed, "every run ended before it was killed"


def test_killed_runs_are_finished_by_the_next(tmp_path: Path, write: Write) -> None:
    kill_and_finish(tmp_path, write, times=3)


@pytest.mark.slow
def test_ten_killed_runs_are_finished_by_the_next(tmp_path: Path, write: Write) -> None:
    kill_and_finish(tmp_path, write, times=10)
