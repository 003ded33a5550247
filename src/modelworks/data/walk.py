"""The files of a folder that may be documents, whatever state the folder is in."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_IGNORE = ("__pycache__", "node_modules", "~$*", "*~")
"""Names that are never documents: what tools leave behind, and the lock files of Office."""


@dataclass(slots=True)
class Walk:
    """The files below a folder, by name relative to it, and the places that could not be entered."""

    files: dict[str, Path] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Name to reason; a folder's name ends in "/"."""


def walk(root: Path, *, ignore: Sequence[str] = (), hidden: bool = False, skip: Path | None = None) -> Walk:
    """Find the files below `root`.

    ignore: patterns for a name or a whole relative path, besides DEFAULT_IGNORE. hidden: also names with a leading
    dot. skip: a folder to leave out, such as the collection itself. Links are followed, but no file or folder is
    taken a second time through one, so loops end.
    """
    walker = _Walker((*DEFAULT_IGNORE, *ignore), hidden, skip.resolve() if skip else None)
    walker.run(root)
    return walker.found


class _Walker:
    def __init__(self, ignore: Sequence[str], hidden: bool, skip: Path | None) -> None:
        self.found = Walk()
        self._ignore = ignore
        self._hidden = hidden
        self._skip = skip
        self._seen: set[tuple[int, int]] = set()  # (device, inode) of what has been taken
        self._folders: deque[tuple[str, Path]] = deque()  # name, path; the name is "" or ends in "/"
        self._links: deque[tuple[str, Path]] = deque()

    def run(self, root: Path) -> None:
        self._folders.append(("", root))
        # Links wait until the real folders are done, so that a file is known by its real name.
        while self._folders or self._links:
            if self._folders:
                self._enter(*self._folders.popleft())
            else:
                self._follow(*self._links.popleft())

    def _enter(self, prefix: str, folder: Path) -> None:
        try:
            status = folder.stat()
            if not self._first(status.st_dev, status.st_ino) or folder.resolve() == self._skip:
                return
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self.found.unreadable[prefix or "./"] = f"folder cannot be read: {error.strerror}"
            return
        for entry in entries:
            name, path = prefix + entry.name, Path(entry.path)
            if self._ignored(name, entry.name):
                continue
            if not is_utf8(name):
                shown = name.encode(errors="backslashreplace").decode()
                self.found.unreadable[shown] = "its name is not UTF-8: rename it"
            elif entry.is_symlink():
                self._links.append((name, path))
            elif entry.is_dir(follow_symlinks=False):
                self._folders.append((f"{name}/", path))
            else:
                self._seen.add((status.st_dev, entry.inode()))  # two hard links are two files
                self.found.files[name] = path

    def _follow(self, name: str, link: Path) -> None:
        try:
            status = link.stat()
        except OSError as error:
            self.found.unreadable[name] = f"broken link: {error.strerror}"
            return
        if stat.S_ISDIR(status.st_mode):
            self._folders.append((f"{name}/", link))
        elif self._first(status.st_dev, status.st_ino):
            self.found.files[name] = link

    def _first(self, device: int, inode: int) -> bool:
        """Whether this is met for the first time."""
        known = (device, inode) in self._seen
        self._seen.add((device, inode))
        return not known

    def _ignored(self, name: str, last: str) -> bool:
        if last.startswith(".") and not self._hidden:
            return True
        return any(fnmatch.fnmatch(last, pattern) or fnmatch.fnmatch(name, pattern) for pattern in self._ignore)


def is_utf8(name: str) -> bool:
    """Whether a file name survives as text; Python carries other bytes as lone surrogates (PEP 383)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
