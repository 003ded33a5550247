"""Files below one folder, and no others: no path leads out of it, neither by `..` nor by a link, nor by a race.

Each part of a path is opened in the folder before it, without following links, so that what was checked is what is
used. A link is told, and not followed, wherever it leads.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from modelworks.core.errors import ModelworksError

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a FIFO must not wait for who writes to it.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class FileError(ModelworksError):
    """A path that leads nowhere, out of the folder, or to what is no plain file; the message is for the model."""


class Rooted:
    """The files below a folder, by paths relative to it."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)

    def read(self, path: str, most: int) -> bytes:
        """A file's bytes; raises `FileError` for more than `most`."""
        with self._file(path) as (file, size):
            if size > most:
                raise FileError(f"{path}: has {size:,} bytes, more than the {most:,} that can be read")
            return _all_of(file, most)

    @contextmanager
    def _file(self, path: str) -> Iterator[tuple[int, int]]:
        parts = _parts(path)
        if not parts:
            raise FileError("the path is that of the folder itself; name a file in it")
        with self._folder(parts[:-1], path) as folder:
            try:
                file = os.open(parts[-1], _FILE, dir_fd=folder)
            except OSError as error:
                raise _told(path, error) from error
            try:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode):
                    raise FileError(f"{path}: is {'a folder' if stat.S_ISDIR(found.st_mode) else 'no plain file'}")
                yield file, found.st_size
            finally:
                os.close(file)

    @contextmanager
    def _folder(self, parts: list[str], path: str, *, make: bool = False) -> Iterator[int]:
        try:
            folder = os.open(self.root, _FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise FileError(f"the workspace cannot be opened: {error.strerror}") from error
        try:
            for part in parts:
                try:
                    if make:
                        with suppress(FileExistsError):
                            os.mkdir(part, dir_fd=folder)
                    inner = os.open(part, _FOLDER, dir_fd=folder)
                except OSError as error:
                    raise _told(path, error) from error
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def entries(self, path: str) -> list[tuple[str, os.stat_result]]:
        """What a folder holds, sorted by name; of links, what they are themselves."""
        with self._folder(_parts(path), path or ".") as folder, os.scandir(folder) as found:
            return sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in found)

    def walk(self, path: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Every plain file below a folder, by its path, in order; links are passed over.

        Raises `FileError` for a folder that cannot be listed; what is below it and cannot be is passed over.
        """
        waiting = [self._below(path)]
        while waiting:
            for inner, found in waiting.pop():
                if stat.S_ISREG(found.st_mode):
                    yield inner, found
                elif stat.S_ISDIR(found.st_mode):
                    with suppress(FileError):  # removed meanwhile, or not to be read
                        waiting.append(self._below(inner))

    def _below(self, path: str) -> list[tuple[str, os.stat_result]]:
        above = "".join(f"{part}/" for part in _parts(path))
        return [(above + name, found) for name, found in self.entries(path)]

    def write(self, path: str, data: bytes) -> bool:
        """Write a file whole or not at all, and make the folders that it is in; whether it is a new one."""
        parts = _parts(path)
        if not parts:
            raise FileError("the path is that of the folder itself; name a file in it")
        with self._folder(parts[:-1], path, make=True) as folder:
            old = self._old(parts[-1], folder, path)
            like = old or os.fstat(folder)
            aside = f".{parts[-1][:100]}.{secrets.token_hex(8)}"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(aside, flags, 0o600, dir_fd=folder)
                try:
                    with os.fdopen(file, "wb") as stream:
                        stream.write(data)
                        stream.flush()
                        if os.geteuid() == 0:  # root's programs do not take files away from their owners
                            os.fchown(file, like.st_uid, like.st_gid)
                        os.fchmod(file, stat.S_IMODE(old.st_mode) & 0o777 if old else 0o644)
                        os.fsync(file)
                    os.rename(aside, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    with suppress(OSError):
                        os.unlink(aside, dir_fd=folder)
                    raise
            except OSError as error:
                raise _told(path, error) from error
            return old is None

    @staticmethod
    def _old(name: str, folder: int, path: str) -> os.stat_result | None:
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _told(path, error) from error
        if not stat.S_ISREG(found.st_mode):
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "no plain file"
            raise FileError(f"{path}: is {kind}, and is not replaced")
        return found


def _parts(path: str) -> list[str]:
    """The parts of a path below the root; raises `FileError` for one that is absolute, goes up, or is no path."""
    if "\0" in path:
        raise FileError("a path has no null character in it")
    if path.startswith(("/", "~")):
        raise FileError(f"{path}: is absolute; paths are relative to the workspace")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise FileError(f"{path}: leads out of a folder; '..' is not allowed")
    return parts


def _all_of(file: int, most: int) -> bytes:
    pieces, left = [], most
    while left > 0 and (piece := os.read(file, min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _told(path: str, error: OSError) -> FileError:
    known = {
        errno.ELOOP: "is a link, and is not followed",
        errno.ENOENT: "does not exist",
        errno.ENOTDIR: "goes through what is no folder, or through a link",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EROFS: "cannot be written: the file system is read-only",
        errno.ENOSPC: "cannot be written: the disk is full",
        errno.EISDIR: "is a folder",
        errno.ENAMETOOLONG: "has a name that is too long",
    }
    return FileError(f"{path}: {known.get(error.errno or 0, error.strerror)}")
