"""Tools for the files of a workspace: list, read, search, and where it is allowed write and edit. See `rooted`."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from modelworks.agents.tool import Result, Tool, tool
from modelworks.agents.tools.rooted import FileError, Rooted
from modelworks.core.errors import ConfigError
from modelworks.core.units import byte_count

_READ: Final = 16 << 20  # bytes of a file that can be read or edited
_TOLD: Final = 20_000  # characters of an observation
_LINES: Final = 400
_ENTRIES: Final = 200
_FOUND: Final = 50
_LINE: Final = 500  # characters of a line that a search shows
_WRITE: Final = 4 << 20


def files(root: str | os.PathLike[str], *, write: bool = False) -> list[Tool]:
    """Tools for the files below a folder: `list_files`, `read_file`, `search_files`; `write_file` and `edit_file`
    with `write`.

    Raises `ConfigError` for a folder that does not exist.
    """
    if not Path(root).is_dir():
        raise ConfigError(f"{os.fspath(root)}: there is no such folder; create it, or name another workspace")
    place = Rooted(Path(root).resolve())
    return [*_readers(place), *(_writers(place) if write else [])]


def _readers(place: Rooted) -> list[Tool]:
    @tool(effects=["reads"])
    def list_files(folder: str = "") -> str:
        """List the files and folders in a folder of the workspace.

        Args:
            folder: Path relative to the workspace, such as "data/2024"; "" for the workspace itself.
        """
        lines = []
        found = place.entries(folder)
        for name, info in found[:_ENTRIES]:
            if stat.S_ISDIR(info.st_mode):
                lines.append(f"{name}/")
            elif stat.S_ISREG(info.st_mode):
                lines.append(f"{name}  {byte_count(info.st_size)}")
            else:
                lines.append(f"{name}  ({'link' if stat.S_ISLNK(info.st_mode) else 'special file'}, cannot be opened)")
        if len(found) > _ENTRIES:
            lines.append(f"... and {len(found) - _ENTRIES} more")
        return "\n".join(lines) or "(empty)"

    @tool(effects=["reads"])
    def read_file(path: str, first_line: int = 1, last_line: int | None = None) -> Result:
        """Read a text file of the workspace, at most 400 lines at once.

        Args:
            path: Path relative to the workspace.
            first_line: Where to begin; lines are counted from 1.
            last_line: Where to end; the end of the file if left out.
        """
        return Result(_lines(path, _text(place, path), first_line, last_line), frozenset({path}))

    @tool(effects=["reads"])
    def search_files(text: str, folder: str = "") -> Result:
        """Find the lines that contain a text, in all text files of the workspace; case does not matter.

        Args:
            text: What to look for, literally.
            folder: Where to look; "" for everywhere.
        """
        if not text:
            raise FileError("the text to look for is empty")
        found: list[str] = []
        origins: set[str] = set()
        for path, info in place.walk(folder):
            lines = _matches(place, path, text) if info.st_size <= _READ else []
            origins |= {path} if lines else set()
            found += lines
            if len(found) > _FOUND:
                found[_FOUND:] = ["... and more; look in one folder, or for a longer text"]
                break
        return Result("\n".join(found) or "(nothing found)", frozenset(origins))

    return [list_files, read_file, search_files]


def _lines(path: str, text: str, first_line: int, last_line: int | None) -> str:
    lines = text.splitlines(keepends=True)
    if first_line < 1 or (last_line is not None and last_line < first_line):
        raise FileError("lines are counted from 1, and the last is not before the first")
    if first_line > max(1, len(lines)):
        raise FileError(f"{path}: has only {len(lines)} lines")
    wanted = lines[first_line - 1 : last_line]
    shown, size = 0, 0
    while shown < min(len(wanted), _LINES) and (size := size + len(wanted[shown])) <= _TOLD:
        shown += 1
    if shown == len(wanted):
        return "".join(wanted) or "(empty)"
    if shown == 0:
        return f"{wanted[0][:_TOLD]}\n[line {first_line} is cut; it has {len(wanted[0]):,} characters]"
    return f"{''.join(wanted[:shown])}[cut; the file has {len(lines)} lines, go on from line {first_line + shown}]"


def _matches(place: Rooted, path: str, text: str) -> list[str]:
    """The lines of a file with a text in them; none of a binary file."""
    try:
        data = place.read(path, _READ)
    except FileError:  # removed meanwhile, or not to be read
        return []
    if b"\0" in data[:8192]:
        return []
    lines = enumerate(data.decode(errors="replace").splitlines(), 1)
    wanted = text.casefold()
    return [f"{path}:{number}: {line.strip()[:_LINE]}" for number, line in lines if wanted in line.casefold()]


def _writers(place: Rooted) -> list[Tool]:
    @tool(effects=["reads", "writes"], trusted=True)
    def write_file(path: str, content: str) -> str:
        """Write a text file of the workspace: a new one, or all of an old one anew.

        Args:
            path: Path relative to the workspace; folders are made as needed.
            content: The whole text.
        """
        new = place.write(path, _encoded(path, content))
        return f"{'wrote' if new else 'replaced'} {path}: {len(content.splitlines())} lines"

    @tool(effects=["reads", "writes"], trusted=True)
    def edit_file(path: str, old: str, new: str, all_of_them: bool = False) -> str:
        """Replace a text in a file of the workspace.

        Args:
            path: Path relative to the workspace.
            old: The text to be replaced, exactly as it stands there.
            new: What takes its place.
            all_of_them: Replace it wherever it stands; if false, it must stand there once.
        """
        text = _text(place, path)
        times = text.count(old) if old else 0
        if times == 0:
            raise FileError(f"{path}: the text to be replaced does not stand there")
        if times > 1 and not all_of_them:
            raise FileError(f"{path}: the text stands there {times} times; give more of what is around it")
        place.write(path, _encoded(path, text.replace(old, new)))
        return f"replaced {times} in {path}"

    return [write_file, edit_file]


def _text(place: Rooted, path: str) -> str:
    """A file's text as it is, its line ends included."""
    data = place.read(path, _READ)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is no text in UTF-8 ({len(data):,} bytes)") from error
    if "\0" in text:
        raise FileError(f"{path}: is a binary file ({len(data):,} bytes)")
    return text


def _encoded(path: str, content: str) -> bytes:
    try:
        data = content.encode()
    except UnicodeEncodeError as error:
        raise FileError(f"{path}: the text has half of a character in it") from error
    if len(data) > _WRITE:
        raise FileError(f"{path}: would have {len(data):,} bytes, more than the {_WRITE:,} that can be written")
    return data
