from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.data.decontaminate import Contamination, Hit, evaluation_rows

QUESTION = "If a train leaves the station at noon and travels sixty miles an hour how far is it by three"


def test_thirteen_words_in_a_row_are_a_hit_and_twelve_are_none() -> None:
    found = Contamination([("test.jsonl:4", QUESTION)])
    words = QUESTION.split()
    assert found.find("Here: " + " ".join(words[2:15]).upper() + "!") == Hit(
        "test.jsonl:4", "train leaves the station at noon and travels sixty miles an hour how"
    )
    assert found.find(" ".join(words[2:14]) + " else " + " ".join(words[14:])) is None


def test_a_short_string_must_stand_whole_and_a_shorter_one_is_not_looked_for() -> None:
    found = Contamination([("a:1", "one two three four five six seven eight nine"), ("a:2", "yes it is so")])
    assert found.find("x one, two, three, four, five, six, seven, eight, nine y") == Hit(
        "a:1", "one two three four five six seven eight nine"
    )
    assert found.find("one two three four five six seven eight") is None
    assert found.find("yes it is so") is None
    assert found.too_short == 1


def test_the_first_row_that_holds_the_words_is_named() -> None:
    found = Contamination([("a:1", f"{QUESTION} first"), ("a:2", f"{QUESTION} second")])
    assert found.find(f"{QUESTION} second") == Hit("a:1", " ".join(QUESTION.lower().split()[:13]))


@given(st.integers(0, 1 << 32), st.integers(3, 30), st.integers(0, 40))
def test_a_hit_is_exactly_a_common_run(seed: int, length: int, start: int) -> None:
    """Against a search of every run in plain Python, over few words so that chance hits are many."""
    draw = random.Random(seed)
    evaluation = [draw.choice("abc") for _ in range(length)]
    text = [draw.choice("abc") for _ in range(start)]
    text += evaluation[: draw.randrange(length)] if draw.random() < 0.5 else []
    size = min(6, length)
    runs = {tuple(evaluation[at : at + size]) for at in range(length - size + 1)}
    common = any(tuple(text[at : at + size]) in runs for at in range(len(text) - size + 1))
    found = Contamination([("e:1", " ".join(evaluation))], size=6, shortest=3).find(" ".join(text))
    assert (found is not None) == common
    assert found is None or tuple(found.words.split()) in runs


def test_files_of_every_kind_give_their_strings_by_row(tmp_path: Path) -> None:
    rows = [{"question": "q one", "choices": ["c1", {"text": "c2"}], "label": 3}, {"question": "q two"}]
    lines = "\n".join(map(json.dumps, rows))
    expected = [(1, "q one"), (1, "c1"), (1, "c2"), (2, "q two")]
    (tmp_path / "e.jsonl").write_text(lines + "\n")
    (tmp_path / "e.json").write_text(json.dumps(rows))
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("e.jsonl", "e.json", "e.jsonl.gz"):
        found = [(row, string) for row, string in evaluation_rows(tmp_path / name) if string]
        assert found == [(f"{name}:{number}", string) for number, string in expected]
    (tmp_path / "e.csv").write_text('a,"b\nc"\n')
    assert list(evaluation_rows(tmp_path / "e.csv")) == [("e.csv:1", "a"), ("e.csv:1", "b\nc")]
    (tmp_path / "e.txt").write_text("one\ntwo\n\nthree")
    assert list(evaluation_rows(tmp_path / "e.txt")) == [("e.txt:1", "one\ntwo"), ("e.txt:2", "three")]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("e.jsonl", b'{"a": "b"}\n{broken\n', "cannot be read after row 1: Expecting"),
        ("e.json", b"[1, 2]", "holds no text"),
        ("e.jsonl.gz", b"not gzip", "cannot be read"),
        ("e.txt", b"\xff\xfe\x00", "cannot be read"),
        ("e.csv", b"", "holds no text"),
    ],
)
def test_a_set_that_cannot_be_read_stops_the_run(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        list(evaluation_rows(tmp_path / name))
    with pytest.raises(ConfigError, match="No such file"):
        list(evaluation_rows(tmp_path / "missing.jsonl"))


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="from 1 to 5"):
        Contamination([], size=5, shortest=6)


def test_without_rows_nothing_is_found() -> None:
    assert Contamination([]).find("any text at all") is None
