from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from modelworks.agents.memory import database
from modelworks.agents.memory.database import Remembered, mentions
from modelworks.agents.memory.semantic import Facts
from modelworks.core.errors import StoreError


def bytes_of(path: Path) -> bytes:
    """All that is on disk of a database: the file, its log and what else it has beside it."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*")))


def test_what_is_forgotten_is_in_no_byte_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with Facts(path) as facts:
        secret = facts.add([f"The safe's combination is qzxj{at:03d}wvkp." for at in range(200)])
        kept = facts.add(["The kettle is blue."])
        assert b"qzxj007wvkp" in bytes_of(path)
        assert facts.remove(secret) == 200
        for trace in (b"qzxj", b"wvkp", b"combination", b"combin"):  # stemmed, as the index has it
            assert trace not in bytes_of(path)
        assert [fact.id for fact in facts.search("kettle")] == kept
        assert facts.search("combination qzxj007wvkp") == []
    assert b"qzxj" not in bytes_of(path)


def test_a_reader_that_stays_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.db"
    monkeypatch.setattr(database, "_PATIENCE_S", 0.1)
    with Facts(path, busy_timeout_s=0.1) as facts:
        ids = facts.add(["The code is qzxjwvkp."])
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM facts").fetchall()
        with pytest.raises(StoreError, match=r"another process reads it.* forget again"):
            facts.remove(ids)
        assert facts.all() == []
        reader.close()
        facts.remove(ids)
    assert b"qzxjwvkp" not in bytes_of(path)


def test_only_a_file_of_ours_is_opened(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE things (x)")
    (tmp_path / "text").write_text("my notes")
    for path in (other, tmp_path / "text"):
        before = path.read_bytes()
        with pytest.raises(StoreError, match="is not an agent's memory"):
            Remembered(path)
        assert path.read_bytes() == before
    path = tmp_path / "ours.db"
    Remembered(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer modelworks"):
        Remembered(path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        Remembered(tmp_path / "file" / "memory.db")


def test_several_threads_and_openers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "memory.db"
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            with Facts(path) as facts:
                for at in range(10):
                    facts.add([f"Fact {at} of {number}."])
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    with Facts(path) as facts:
        assert len(facts.all()) == 40


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("Call Ann\nLee.", "ann  lee", True),
        ("Call Ann.", "Bob", False),
        ("anything", " ", False),
        ("Straße", "STRASSE", True),
    ],
)
def test_mentions(text: str, part: str, expected: bool) -> None:
    assert mentions(text, part) is expected
