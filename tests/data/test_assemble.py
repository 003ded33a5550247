from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.core.errors import ModelworksError
from modelworks.data import assemble, parts
from modelworks.data.assemble import Assembly
from modelworks.data.parts import Done, Part, Worker
from modelworks.data.prepare import Preparation
from modelworks.data.sources import File, Text, Unread, read_texts


def done(tmp_path: Path, recipe: Preparation, rows: dict[str, list[str]]) -> list[tuple[str, Done]]:
    """Parts of a file each, all of one text a row."""
    worker, found = Worker(recipe, tmp_path / "work"), []
    for name, texts in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        part = Part((File(path.name, path, name),))
        worker(part)
        found.append((name, Done(tmp_path / "work" / worker.key(part))))
    return found


def texts(folder: Path) -> list[str]:
    found = [item for path in sorted(folder.glob("texts-*")) for item in read_texts(File(path.name, path))]
    return [item.text for item in found if isinstance(item, Text)]


def test_duplicates_are_found_across_parts_and_the_first_stays(tmp_path: Path) -> None:
    recipe = Preparation(filters=(), format="jsonl")
    made = done(tmp_path, recipe, {"a": ["one two", "three"], "b": ["Three!", "four", "ONE two"]})
    (tmp_path / "out").mkdir()
    report = Assembly(recipe, made, [Unread("c/", "folder cannot be read: denied")]).write(tmp_path / "out")
    assert texts(tmp_path / "out") == ["one two", "three", "four"]
    assert report["sources"] == {"a": {"texts": 2, "characters": 12}, "b": {"texts": 1, "characters": 4}}
    examples = report["steps"]["exact duplicates"]["examples"]["the words of an earlier text"]
    assert [(one["source"], one["detail"]) for one in examples] == [
        ("b.jsonl:1", "see a.jsonl:2"),
        ("b.jsonl:3", "see a.jsonl:1"),
    ]
    assert report["steps"]["read"]["dropped"] == {"folder cannot be read": 1}


def test_a_mixture_reads_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "_OPEN_FILES", 2)
    monkeypatch.setattr(parts, "BLOCK", 1)
    recipe = Preparation(filters=(), format="jsonl", near_duplicates=None, weights={"a": 1, "b": 1}, characters=60)
    made = done(tmp_path, recipe, {"a": [f"a{at}xx" for at in range(10)], "b": [f"b{at}xx" for at in range(5)]})
    (tmp_path / "out").mkdir()
    report = Assembly(recipe, made, []).write(tmp_path / "out")
    mixed = texts(tmp_path / "out")
    assert sorted(text[0] for text in mixed) == ["a"] * 8 + ["b"] * 8
    assert {text for text in mixed if text[0] == "b"} == {f"b{at}xx" for at in range(5)}
    assert report["sources"]["b"]["epochs"] == 1.5


def test_no_text_left_is_an_error_and_no_file(tmp_path: Path) -> None:
    recipe = Preparation()
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelworksError, match=r"no text is left: gopher/words \(1\)"):
        Assembly(recipe, done(tmp_path, recipe, {"a": ["short"]}), []).write(tmp_path / "out")
