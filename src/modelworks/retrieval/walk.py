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
    entered a second time through one, so loops end.
    """
    found = Walk()
    patterns = (*DEFAULT_IGNORE, *ignore)
    avoided = skip.resolve() if skip is not None else None
    entered: set[tuple[int, int]] = set()
    files: set[tuple[int, int]] = set()
    # Links wait until all real folders have been walked: a file is then known by its real name.
    queue: deque[tuple[str, Path]] = deque([("", root)])
    links: list[tuple[str, Path]] = []
    while queue or links:
        if not queue:
            links.sort()
            name, path = links.pop(0)
            try:
                status = path.stat()
            except OSError as error:
                found.unreadable[name] = f"broken link: {error.strerror}"
                continue
            if stat.S_ISDIR(status.st_mode):
                queue.append((f"{name}/", path))
            elif _identity(status) not in files:
                files.add(_identity(status))
                found.files[name] = path
            continue
        prefix, folder = queue.popleft()
        try:
            inode, folder_device = _identity(folder.stat())
            if (inode, folder_device) in entered or folder.resolve() == avoided:
                continue
            entered.add((inode, folder_device))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable[prefix or "./"] = f"folder cannot be read: {error.strerror}"
            continue
        for entry in entries:
            name = prefix + entry.name
            if not hidden and entry.name.startswith("."):
                continue
            if any(fnmatch.fnmatch(entry.name, pattern) or fnmatch.fnmatch(name, pattern) for pattern in patterns):
                continue
            path = Path(entry.path)
            try:
                name.encode()
            except UnicodeEncodeError:
                found.unreadable[name.encode(errors="backslashreplace").decode()] = "its name is not UTF-8: rename it"
                continue
            if entry.is_symlink():
                links.append((name, path))
            elif entry.is_dir(follow_symlinks=False):
                queue.append((f"{name}/", path))
            else:
                files.add((entry.inode(), folder_device))
                found.files[name] = path
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_dev
