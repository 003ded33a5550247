"""`ask`, `index` and `docs` on small folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from modelworks.cli.documents import default_store
from modelworks.retrieval.collection import Collection

WARRANTY = "How long does the warranty of the Blue Kettle last?"
OFF_TOPIC = "Who painted the ceiling of the Sistine Chapel?"

pytestmark = pytest.mark.usefixtures("starters")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_an_answer_is_quoted_from_the_files(run, handbook: Path, store: Path) -> None:
    result = run("ask", handbook, WARRANTY, "--store", store, "--json")
    assert (result.status, result.err) == (0, "")
    assert result.out.count("\n") == 1
    found = json.loads(result.out)
    assert set(found) == {"question", "answer", "refused", "citations", "passages", "timings"}
    assert found["question"] == WARRANTY
    assert found["refused"] is False
    assert "three years" in found["answer"]
    with Collection(store) as collection:
        for number, citation in enumerate(found["citations"], 1):
            assert {"marker", "file", "page", "start", "end", "quote"} <= set(citation)
            assert citation["marker"] == number
            assert f"[{number}]" in found["answer"]
            quote, place = citation["quote"], slice(citation["start"], citation["end"])
            assert quote
            assert collection.document_text(citation["file"])[place] == quote
            assert (handbook / citation["file"]).read_text(encoding="utf-8")[place] == quote
    assert found["passages"][0]["file"] == "kettle.md"
    for passage in found["passages"]:
        assert {"file", "page", "start", "end", "text", "score"} <= set(passage)
    assert set(found["timings"]) == {"search", "read", "total"}


def test_the_shown_answer_flows_and_names_its_places(run, handbook: Path, store: Path) -> None:
    result = run("ask", handbook, WARRANTY, "--store", store)
    assert (result.status, result.err) == (0, "")
    first = result.out.splitlines()[0]
    assert first == "The warranty of the Blue Kettle lasts three years from the date of purchase. [1]"
    start = (handbook / "kettle.md").read_text(encoding="utf-8").index("The warranty of")
    assert f"\n[1] kettle.md, page 1, characters {start}-" in result.out
    assert "\x1b" not in result.out  # no colours where it is no terminal


def test_a_question_off_topic_is_refused_with_the_nearest_passages(run, handbook: Path, store: Path) -> None:
    shown = run("ask", handbook, OFF_TOPIC, "--store", store)
    assert shown.status == 0
    assert shown.out.startswith("The documents do not answer this question.\n\nNearest passages:\n")
    assert "characters" in shown.out
    found = json.loads(run("ask", handbook, OFF_TOPIC, "--store", store, "--json").out)
    assert found["refused"] is True
    assert found["citations"] == []
    assert found["passages"]


def test_threshold_passages_and_where(run, handbook: Path, store: Path) -> None:
    ask = ("ask", handbook, WARRANTY, "--store", store, "--json")
    assert json.loads(run(*ask, "--threshold", "1").out)["refused"] is True
    one = json.loads(run(*ask, "--passages", "1").out)
    assert len(one["passages"]) == 1
    elsewhere = json.loads(run(*ask, "--where", "*.txt").out)
    assert {passage["file"] for passage in elsewhere["passages"]} == {"office.txt"}
    assert json.loads(run(*ask, "--where", "no/*").out)["passages"] == []


def test_no_sync_asks_the_index_as_it_is(run, handbook: Path, store: Path) -> None:
    ask = ("ask", handbook, WARRANTY, "--store", store, "--no-sync", "--json")
    run(*ask).assert_one_line_error("no index")
    assert not store.exists()
    run("index", handbook, "--store", store)
    shutil.rmtree(handbook)
    assert json.loads(run(*ask).out)["refused"] is False


def test_the_store_is_in_the_cache_by_default(run, handbook: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MODELWORKS_CACHE", str(tmp_path / "cache"))
    found = default_store(handbook)
    assert found.parent == tmp_path / "cache/collections"
    assert found.name.startswith("handbook-")
    assert default_store(handbook / "..") != found == default_store(handbook / ".." / "handbook")
    run("docs", "list", handbook).assert_one_line_error("no index", "modelworks index")


def test_index_reports_each_file_and_only_changes(run, handbook: Path, store: Path) -> None:
    (handbook / "empty.txt").touch()
    first = run("index", handbook, "--store", store)
    assert (first.status, first.err) == (0, "")
    *files, total = first.out.splitlines()
    assert files == ["skipped   empty.txt: empty file", "added     kettle.md", "added     office.txt"]
    assert total.startswith("2 added, 1 skipped; ")
    (handbook / "office.txt").rename(handbook / "lisbon.txt")
    second = run("index", handbook, "--store", store)
    assert "renamed   lisbon.txt: was office.txt" in second.out
    assert "kettle" not in second.out
    third = json.loads(run("index", handbook, "--store", store, "--json").out)
    assert set(third) == {"files", "chunks_added", "chunks_removed", "embedded", "seconds"}
    assert {file["name"]: file["outcome"] for file in third["files"]} == {
        "empty.txt": "skipped",
        "kettle.md": "unchanged",
        "lisbon.txt": "unchanged",
    }


def test_ask_names_an_unreadable_file_once(run, handbook: Path, store: Path) -> None:
    (handbook / "empty.txt").touch()
    ask = ("ask", handbook, OFF_TOPIC, "--store", store)
    assert run(*ask).err == "skipped empty.txt: empty file\n"
    assert run(*ask).err == ""


def test_removed_documents_are_cited_no_more_until_restored(run, handbook: Path, store: Path) -> None:
    def files() -> set[str]:
        found = json.loads(run("ask", handbook, WARRANTY, "--store", store, "--json").out)
        return {passage["file"] for passage in [*found["citations"], *found["passages"]]}

    assert "kettle.md" in files()
    assert run("docs", "remove", handbook, "kettle.md", "--store", store).out == "removed kettle.md\n"
    assert "kettle.md" not in files()
    assert "removed  kettle.md" in run("docs", "list", handbook, "--store", store).out
    assert run("docs", "restore", handbook, "kettle.md", "--store", store).status == 0
    assert "kettle.md" in files()


@pytest.mark.parametrize("verb", ["remove", "restore"])
def test_an_unknown_document_is_one_line(run, handbook: Path, store: Path, verb: str) -> None:
    run("index", handbook, "--store", store)
    run("docs", verb, handbook, "no\nsuch.md", "--store", store).assert_one_line_error("such.md")
    run("docs", verb, handbook, "--store", store).assert_one_line_error("name at least one")


def test_docs_list(run, handbook: Path, store: Path) -> None:
    (handbook / "empty.txt").touch()
    run("index", handbook, "--store", store)
    assert run("docs", "list", handbook, "--store", store).out.splitlines() == [
        "skipped  empty.txt: empty file",
        "ok       kettle.md: 1 page, 2 passages",
        "ok       office.txt: 1 page, 1 passage",
    ]
    listed = json.loads(run("docs", "list", handbook, "--store", store, "--json").out)
    assert [document["name"] for document in listed] == ["empty.txt", "kettle.md", "office.txt"]
    assert {"status", "reason", "pages", "chunks", "embedded"} <= set(listed[0])


def test_doctor_finds_and_mends(run, handbook: Path, store: Path) -> None:
    doctor = ("docs", "doctor", handbook, "--store", store)
    run("index", handbook, "--store", store)
    healthy = run(*doctor)
    assert healthy.status == 0
    assert all(line.startswith("ok ") for line in healthy.out.splitlines())
    with sqlite3.connect(store / "collection.db") as connection:
        connection.execute("UPDATE embeddings SET vector = x'00' WHERE rowid = 1")
    connection.close()
    sick = run(*doctor, "--json")
    assert sick.status == 1
    assert [check["name"] for check in json.loads(sick.out) if not check["ok"]] == ["vectors"]
    assert sick.err.startswith("modelworks: the index is damaged")
    assert "repaired vectors" in run(*doctor, "--repair").out
    assert run(*doctor).status == 0


def test_a_damaged_index_is_one_line_and_made_anew_by_rebuild(run, handbook: Path, store: Path) -> None:
    run("index", handbook, "--store", store)
    database = store / "collection.db"
    whole = database.read_bytes()
    database.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    run("ask", handbook, WARRANTY, "--store", store).assert_one_line_error("collection.db", "--rebuild")
    rebuilt = run("index", handbook, "--store", store, "--rebuild")
    assert rebuilt.status == 0
    assert "2 added" in rebuilt.out
    assert "made anew" in rebuilt.err
    assert run("docs", "doctor", handbook, "--store", store).status == 0


@pytest.mark.parametrize("question", ["", "  \n", "?!", "caf\udce9"])
def test_a_question_that_is_none(run, handbook: Path, question: str) -> None:
    run("ask", handbook, question).assert_one_line_error("the question is")


@pytest.mark.parametrize("verb", ["ask", "index"])
def test_a_folder_that_cannot_be_used(run, verb: str, tmp_path: Path, store: Path) -> None:
    (tmp_path / "file.txt").write_text("text")
    rest = ([WARRANTY] if verb == "ask" else []) + ["--store", str(store)]
    run(verb, tmp_path / "none", *rest).assert_one_line_error("none: no such folder")
    run(verb, tmp_path / "file.txt", *rest).assert_one_line_error("file.txt: not a folder")
    assert not store.exists()


def test_an_empty_folder_refuses_and_says_why(run, tmp_path: Path, store: Path) -> None:
    (tmp_path / "empty").mkdir()
    asked = run("ask", tmp_path / "empty", WARRANTY, "--store", store)
    assert asked.status == 0
    assert asked.out == "The documents do not answer this question.\n"
    assert "holds no documents" in asked.err
    assert run("index", tmp_path / "empty", "--store", store).out.startswith("no files; ")


def test_a_store_that_is_none(run, handbook: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    run("ask", handbook, WARRANTY, "--store", tmp_path / "file").assert_one_line_error("is a file")
    run("ask", handbook, WARRANTY, "--store", tmp_path / "file/below").assert_one_line_error("file/below")
    content = b"no database at all" * 100
    (tmp_path / "other").mkdir()
    (tmp_path / "other/collection.db").write_bytes(content)
    run("ask", handbook, WARRANTY, "--store", tmp_path / "other").assert_one_line_error("collection.db")
    run("index", handbook, "--rebuild", "--store", tmp_path / "other").assert_one_line_error("collection.db")
    assert (tmp_path / "other/collection.db").read_bytes() == content  # what is not ours is never overwritten


def test_somebody_elses_database_is_left_alone(run, handbook: Path, store: Path) -> None:
    store.mkdir()
    with sqlite3.connect(store / "collection.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = (store / "collection.db").read_bytes()
    run("index", handbook, "--rebuild", "--store", store).assert_one_line_error("not a modelworks collection")
    assert (store / "collection.db").read_bytes() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_while_indexing_leaves_a_store_that_the_next_run_finishes(
    run, command, tmp_path: Path, store: Path, workers: int
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03}.txt").write_text(f"The article {number} costs {number * 7} francs in the shop.\n")
    process = subprocess.Popen(
        command("index", folder, "--store", store, "--workers", workers),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal sends Ctrl-C to the workers too
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _indexed(store):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "modelworks: stopped\n")
    with Collection(store) as stopped:
        assert stopped.documents()
        assert stopped.coverage() < 1
    finished = json.loads(run("index", folder, "--store", store, "--json").out)
    assert len(finished["files"]) == 60
    with Collection(store) as stopped, Collection(tmp_path / "undisturbed") as undisturbed:
        undisturbed.sync(folder)
        assert stopped.fingerprint() == undisturbed.fingerprint()


def _indexed(store: Path) -> int:
    if not (store / "collection.db").exists():
        return 0
    connection = sqlite3.connect(f"file:{store / 'collection.db'}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM documents").fetchone()[0])
    except sqlite3.OperationalError:  # its tables are not there yet
        return 0
    finally:
        connection.close()


def test_an_interactive_terminal_gets_bold_answers_and_no_stray_bars(command, handbook: Path, store: Path) -> None:
    pty = pytest.importorskip("pty")
    (handbook / "[").mkdir()
    (handbook / "[/dim].txt").write_text("A name that looks like rich's markup.")  # would end a progress bar's style
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command("ask", handbook, WARRANTY, "--store", store),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(follower)
    shown = b""
    try:
        while block := os.read(leader, 4096):
            shown += block
    except OSError:  # Linux reports the end of a pseudo-terminal as an error
        pass
    finally:
        os.close(leader)
    assert process.wait(timeout=60) == 0
    assert b"\x1b[1m" in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h")  # every hidden cursor is shown again
