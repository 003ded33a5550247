from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelworks.agents.tool import Result, Tool
from modelworks.agents.tools.files import files
from modelworks.agents.tools.rooted import FileError
from modelworks.core.errors import ConfigError


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, Tool]:
    return {tool.name: tool for tool in files(tmp_path, write=True)}


def _run(tools: dict[str, Tool], name: str, **arguments: Any) -> str:
    found = tools[name].run(**arguments)
    return found.content if isinstance(found, Result) else str(found)


def test_a_file_is_written_listed_read_searched_and_edited(tools: dict[str, Tool], tmp_path: Path) -> None:
    assert _run(tools, "write_file", path="notes/a.txt", content="one\nTwo\n") == "wrote notes/a.txt: 2 lines"
    assert _run(tools, "list_files") == "notes/"
    assert _run(tools, "list_files", folder="notes") == "a.txt  8 B"
    assert _run(tools, "read_file", path="notes/a.txt") == "one\nTwo\n"
    assert _run(tools, "read_file", path="notes/a.txt", first_line=2, last_line=2) == "Two\n"
    assert _run(tools, "search_files", text="two") == "notes/a.txt:2: Two"
    assert _run(tools, "edit_file", path="notes/a.txt", old="Two", new="2") == "replaced 1 in notes/a.txt"
    assert (tmp_path / "notes" / "a.txt").read_text() == "one\n2\n"


def test_without_write_nothing_can_be_changed(tmp_path: Path) -> None:
    tools = files(tmp_path)
    assert [tool.name for tool in tools] == ["list_files", "read_file", "search_files"]
    assert {effect for tool in tools for effect in tool.effects} == {"reads"}


def test_an_edit_has_to_mean_one_place(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x\r\nx\r\n")
    with pytest.raises(FileError, match="stands there 2 times"):
        _run(tools, "edit_file", path="a", old="x", new="y")
    for old in ("z", ""):
        with pytest.raises(FileError, match="does not stand there"):
            _run(tools, "edit_file", path="a", old=old, new="y")
    assert _run(tools, "edit_file", path="a", old="x", new="y", all_of_them=True) == "replaced 2 in a"
    assert (tmp_path / "a").read_bytes() == b"y\r\ny\r\n"  # line ends are kept


def test_a_long_file_is_read_in_parts_that_fit_together(tools: dict[str, Tool], tmp_path: Path) -> None:
    text = "".join(f"line {n} {'x' * 40}\n" for n in range(1000))
    (tmp_path / "long").write_text(text)
    got, first = "", 1
    while True:
        part = _run(tools, "read_file", path="long", first_line=first)
        if "[cut; the file has 1000 lines, go on from line " not in part:
            got += part
            break
        shown, _, rest = part.rpartition("[cut; the file has 1000 lines, go on from line ")
        got, first = got + shown, int(rest.rstrip("]"))
    assert got == text


def test_one_huge_line_is_cut(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "line").write_text("x" * 100_000)
    assert len(_run(tools, "read_file", path="line")) < 21_000
    assert "100,000 characters" in _run(tools, "read_file", path="line")


def test_binary_files_are_told_and_passed_over(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "nul").write_bytes(b"word\0word")
    (tmp_path / "latin").write_bytes(b"word \xff")
    with pytest.raises(FileError, match=r"is a binary file \(9 bytes\)"):
        _run(tools, "read_file", path="nul")
    with pytest.raises(FileError, match=r"is no text in UTF-8 \(6 bytes\)"):
        _run(tools, "read_file", path="latin")
    assert _run(tools, "search_files", text="word") == "latin:1: word \ufffd"


def test_many_entries_and_finds_are_cut(tools: dict[str, Tool], tmp_path: Path) -> None:
    for number in range(250):
        (tmp_path / f"{number:03}").write_text("word\n")
    assert _run(tools, "list_files").endswith("... and 50 more")
    assert len(_run(tools, "search_files", text="word").splitlines()) == 51


def test_bad_arguments_say_what_is_wrong(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\n")
    with pytest.raises(FileError, match="has only 1 lines"):
        _run(tools, "read_file", path="a", first_line=9)
    with pytest.raises(FileError, match="counted from 1"):
        _run(tools, "read_file", path="a", first_line=0)
    with pytest.raises(FileError, match="empty"):
        _run(tools, "search_files", text="")
    with pytest.raises(FileError, match="half of a character"):
        _run(tools, "write_file", path="a", content="\ud800")
    with pytest.raises(FileError, match="more than the"):
        _run(tools, "write_file", path="a", content="x" * (5 << 20))
    with pytest.raises(ConfigError, match="no such folder"):
        files(tmp_path / "none")


def test_a_read_only_workspace_is_an_error_in_words(tools: dict[str, Tool], monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def refuse(*arguments: Any, **more: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(FileError, match="read-only"):
        _run(tools, "write_file", path="a", content="x")


def test_what_is_read_says_which_files_it_is_from(tools: dict[str, Tool], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("word")
    (tmp_path / "b").write_text("other")
    assert tools["read_file"].run(path="b").origins == {"b"}
    assert tools["search_files"].run(text="word").origins == {"a"}
    assert {tool.name for tool in tools.values() if tool.trusted} == {"write_file", "edit_file"}
