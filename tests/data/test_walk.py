from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelworks.data.walk import walk


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_names_are_relative_posix_paths_of_all_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/x.md", "a/deep/ü 日.md"):
        write(tmp_path / name, "x")
    found = walk(tmp_path)
    assert sorted(found.files) == ["a/deep/ü 日.md", "a/x.md", "b.txt"]
    assert found.files["a/x.md"] == tmp_path / "a/x.md"
    assert found.unreadable == {}


def test_hidden_and_ignored_names_are_left_out(tmp_path: Path) -> None:
    for name in (
        ".git/config",
        ".env",
        "node_modules/x.js",
        "a/~$report.docx",
        "a/report.docx",
        "a/draft.md",
        "b/draft.md",
    ):
        write(tmp_path / name, "x")
    assert sorted(walk(tmp_path).files) == ["a/draft.md", "a/report.docx", "b/draft.md"]
    assert sorted(walk(tmp_path, ignore=["a/draft.*"]).files) == ["a/report.docx", "b/draft.md"]
    assert sorted(walk(tmp_path, ignore=["b", "*.docx"]).files) == ["a/draft.md"]
    assert ".env" in walk(tmp_path, hidden=True).files


def test_loops_end_and_nothing_is_taken_twice(tmp_path: Path) -> None:
    write(tmp_path / "real/a.md", "x")
    (tmp_path / "a-link").symlink_to(tmp_path / "real")  # sorts before what it points to
    (tmp_path / "real/up").symlink_to(tmp_path)
    (tmp_path / "real/same.md").symlink_to("a.md")
    (tmp_path / "loop").symlink_to("loop")
    found = walk(tmp_path)
    assert list(found.files) == ["real/a.md"]
    assert list(found.unreadable) == ["loop"]


def test_links_out_of_the_folder_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "outside/b.md", "x")
    write(tmp_path / "single.md", "x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "one").symlink_to(tmp_path / "outside")
    (root / "two").symlink_to(tmp_path / "outside")
    (root / "file.md").symlink_to(tmp_path / "single.md")
    (root / "broken.md").symlink_to(tmp_path / "nowhere")
    found = walk(root)
    assert sorted(found.files) == ["file.md", "one/b.md"]
    assert found.unreadable == {"broken.md": "broken link: No such file or directory"}


def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    os.link(write(tmp_path / "a.md", "x"), tmp_path / "b.md")
    assert sorted(walk(tmp_path).files) == ["a.md", "b.md"]


def test_the_collections_own_folder_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "index/collection.db", "x")
    write(tmp_path / "a.md", "x")
    assert list(walk(tmp_path, skip=tmp_path / "index").files) == ["a.md"]


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "open/a.md", "x")
    write(tmp_path / "shut/b.md", "x")
    scandir = os.scandir

    def refuse(path: Path) -> object:  # permissions do not bind root, who may run the tests
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = walk(tmp_path)
    assert list(found.files) == ["open/a.md"]
    assert found.unreadable == {"shut/": "folder cannot be read: Permission denied"}


def test_a_name_that_is_no_utf8_is_reported(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    found = walk(tmp_path)
    assert found.files == {}
    assert found.unreadable == {"caf\\udce9.md": "its name is not UTF-8: rename it"}
