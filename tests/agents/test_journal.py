from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelworks.agents.audit import verify
from modelworks.agents.journal import GENESIS, Journal
from modelworks.core.errors import ConfigError, StoreError

BODY = {"instructions": "", "origins": []}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "journal.db"


def test_entries_come_back_in_order_each_naming_the_one_before(path: Path) -> None:
    with Journal(path) as journal:
        assert journal.head() == (0, GENESIS)
        journal.begin("r1", "agent", "a task", BODY)
        second = journal.add("r1", "reply", {"text": "hé"})
    with Journal(path) as journal:
        first, again = journal.entries("r1")
        assert (first.kind, first.body["task"], first.previous) == ("task", "a task", GENESIS)
        assert again == second
        assert again.previous == first.hash
        assert journal.head() == (2, second.hash)
        assert [entry.sequence for entry in journal.entries(after=1)] == [2]


def test_runs_are_listed_with_how_they_stand(path: Path) -> None:
    with Journal(path) as journal:
        journal.begin("aa1", "agent", "one", BODY)
        journal.begin("ab2", "agent", "two", BODY)
        journal.add("ab2", "end", {"kind": "answer", "text": "42"})
        assert {run.id: run.state for run in journal.runs()} == {"aa1": "running", "ab2": "answer"}
        assert journal.find("ab").end == {"kind": "answer", "text": "42"}
        for asked, said in (("a", "2 runs"), ("x", "no run"), ("", "no run")):
            with pytest.raises(ConfigError, match=said):
                journal.find(asked)
        with pytest.raises(ConfigError, match="a run aa1 already"):
            journal.begin("aa1", "agent", "again", BODY)


def test_a_run_of_a_process_that_is_gone_was_interrupted(path: Path) -> None:
    code = f"from modelworks.agents.journal import Journal\nJournal({str(path)!r}).begin('r', 'a', 't', {{}})"
    subprocess.run([sys.executable, "-c", code], check=True)
    with Journal(path) as journal:
        assert journal.find("r").state == "interrupted"
        journal.add("r", "resume", {})
        assert journal.find("r").state == "running"


def test_a_halt_reaches_a_run_and_its_parts_through_the_file(path: Path) -> None:
    with Journal(path) as journal, Journal(path) as elsewhere:
        journal.begin("r", "agent", "one", BODY)
        assert not journal.asked_to_halt("r")
        elsewhere.ask_to_halt("r")
        assert journal.asked_to_halt("r")
        assert journal.asked_to_halt("r.call_1")
        assert not journal.asked_to_halt("r2")
        journal.add("r", "resume", {})
        assert not journal.asked_to_halt("r")


def test_threads_and_processes_write_one_chain(path: Path) -> None:
    Journal(path).close()
    code = f"""
from modelworks.agents.journal import Journal
with Journal({str(path)!r}) as journal:
    for index in range(20): journal.add("p", "reply", {{"text": str(index)}})
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    with Journal(path) as journal:
        threads = [
            threading.Thread(target=lambda: [journal.add("t", "reply", {"text": ""}) for _ in range(20)])
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.wait() for process in processes] == [0, 0]
        assert [entry.sequence for entry in journal.entries()] == list(range(1, 81))


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database")
    with pytest.raises(StoreError, match="is not a journal of agents"):
        Journal(text)
    assert text.read_text() == "not a database"
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE a (b)")
    with pytest.raises(StoreError, match="is not a journal of agents"):
        Journal(other)


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Journal(tmp_path / "file" / "journal.db")


def test_a_damaged_entry_is_reported_by_its_number(path: Path) -> None:
    with Journal(path) as journal:
        journal.begin("r", "agent", "one", BODY)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET body = '{\"a\"'")
    with Journal(path) as journal, pytest.raises(StoreError, match="entry 1 is damaged"):
        list(journal.entries())


def test_a_journal_in_memory_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Journal() as journal:
        journal.begin("r", "agent", "one", BODY)
        assert journal.find("r").state == "running"
        assert verify(journal).holds
    assert list(tmp_path.iterdir()) == []
