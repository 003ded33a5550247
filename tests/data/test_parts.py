from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.data import parts
from modelworks.data.parts import Done, Part, Worker, json_line, split
from modelworks.data.prepare import Preparation
from modelworks.data.sources import File


def files(tmp_path: Path, count: int) -> list[File]:
    found = []
    for at in range(count):
        path = tmp_path / f"{at:03d}.jsonl"
        path.write_text(json.dumps({"text": f"text number {at}"}) + "\n")
        found.append(File(path.name, path, "root"))
    return found


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text("xyz", min_size=1, max_size=4)), max_size=50))
def test_parts_are_the_files_in_order_each_of_one_root(named: list[tuple[str, str]]) -> None:
    given_files = [File(f"{root}/{name}", Path("nowhere") / name, root) for root, name in named]
    made = list(split(given_files))
    assert [file for part in made for file in part.files] == given_files
    assert all({file.root for file in part.files} == {part.root} for part in made)


def test_a_new_file_changes_the_parts_around_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = files(tmp_path, 600)
    before = set(split(found))
    new = tmp_path / "0005.jsonl"
    new.write_text("{}")
    after = set(split([*found[:6], File(new.name, new, "root"), *found[6:]]))
    assert len(before) > 2
    assert len(before - after) == 1


def test_a_part_is_known_by_its_files_and_by_what_is_done_to_each_text(tmp_path: Path) -> None:
    found = Part(tuple(files(tmp_path, 2)))
    work = tmp_path / "work"
    key = Worker(Preparation(), work).key(found)
    assert Worker(Preparation(format="jsonl", file_bytes=5), work).key(found) == key
    assert Worker(Preparation(seed=1), work).key(found) != key
    assert Worker(Preparation(filters=()), work).key(found) != key
    os.utime(found.files[0].path, (1, 1))
    assert Worker(Preparation(), work).key(found) != key
    evaluation = tmp_path / "e.txt"
    keys = set()
    for text in ("one question", "another question"):
        evaluation.write_text(text)
        keys.add(Worker(Preparation(evaluations=(str(evaluation),)), work).key(found))
    assert len(keys | {key}) == 3


def test_a_finished_part_has_texts_sketches_tally_and_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BLOCK", 2)
    found = files(tmp_path, 5)
    found[3].path.write_text("{broken")
    worker = Worker(Preparation(filters=()), tmp_path / "work")
    part = Part(tuple(found))
    worker(part)
    done = Done(tmp_path / "work" / worker.key(part))
    blocks = done.blocks()
    assert [len(block.rows_D2) for block in blocks] == [2, 2]
    assert [len(block.sketch.fingerprints_D) for block in blocks] == [2, 2]
    assert blocks[1].sketch.bands_BD.shape == (worker.recipe.minhash.bands[0], 2)
    with blocks[1].open() as lines:
        lines.seek(blocks[1].rows_D2[1, 0])
        assert json.loads(lines.readline())["text"] == "text number 4"
    assert done.tally.steps["read"].texts_out == 4
    assert [json.loads(line)["source"] for line in done.drops().splitlines()] == ["003.jsonl:1"]


def test_a_part_that_is_done_is_left_alone(tmp_path: Path) -> None:
    worker = Worker(Preparation(), tmp_path / "work")
    part = Part(tuple(files(tmp_path, 1)))
    worker(part)
    tally = tmp_path / "work" / worker.key(part) / "tally.json"
    tally.write_text("kept")
    worker(part)
    assert tally.read_text() == "kept"


def test_a_row_is_a_line_whatever_it_holds() -> None:
    line = json_line({"text": "a\nb\u2028c \ud800", "when": Path("x")})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"text": "a\nb\u2028c ?", "when": "x"}
