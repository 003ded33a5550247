from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from modelworks.core.errors import ModelFileError
from modelworks.core.paths import atomic_file, atomic_folder, cache_dir, read_json


def test_the_cache_is_where_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.setenv("MODELWORKS_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.setenv("MODELWORKS_CACHE", "~/models")
    assert cache_dir() == Path.home() / "models"
    monkeypatch.delenv("MODELWORKS_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_dir() == tmp_path / "xdg" / "modelworks"
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        assert cache_dir() == Path.home() / ".cache" / "modelworks"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "model"
    with atomic_folder(target) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "a").write_text("1")
        assert not target.exists()
    assert (target / "inner" / "a").read_text() == "1"
    assert names(target.parent) == {"model"}

    def interrupted() -> None:
        with atomic_folder(target) as scratch:
            (scratch / "b").write_text("2")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted()
    assert names(target) == {"inner"}
    assert names(target.parent) == {"model"}


def test_an_existing_folder_is_replaced_not_merged(tmp_path):
    target = tmp_path / "model"
    for name in ("old", "new"):
        with atomic_folder(target) as scratch:
            (scratch / name).write_text(name)
    assert names(target) == {"new"}
    assert names(tmp_path) == {"model"}


def test_the_new_folder_follows_ordinary_permissions(tmp_path):
    with atomic_folder(tmp_path / "model") as scratch:
        (scratch / "a").touch()
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_every_file_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    """The order that survives a power cut: fsync of each file, then the rename, then fsync of the parent."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1])
    with atomic_folder(tmp_path / "model") as scratch:
        (scratch / "a").touch()
        (scratch / "b").touch()
    assert events == ["fsync", "fsync", "fsync", "rename", "fsync"]


def test_json_is_an_object_or_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
    for text in ("", "{", "[1]", '"x"', "\x00", "[" * 100_000, "nul"):
        path.write_text(text)
        with pytest.raises(ModelFileError, match=r"config\.json: ") as caught:
            read_json(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ModelFileError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(ModelFileError, match="Is a directory"):
        read_json(tmp_path)
    with pytest.raises(ModelFileError, match="No such file"):
        read_json(tmp_path / "none")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "rows.jsonl"
    with atomic_file(target) as file:
        file.write("first é\n")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "first é\n"
    with pytest.raises(TypeError), atomic_file(target) as file:
        file.write(2)
    assert target.read_text(encoding="utf-8") == "first é\n"
    assert list(target.parent.iterdir()) == [target]
