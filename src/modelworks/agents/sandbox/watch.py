"""What a command uses up is looked at while it runs: time, memory, disk, output; a halt ends it at once.

Limits of the kernel bind each process or file; what all of them use together is bound here, twenty times a second.
"""

from __future__ import annotations

import os
import selectors
import stat
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from modelworks.agents.halt import Halt
from modelworks.agents.sandbox.kinds import Bounds, Started

Killed: TypeAlias = Literal["", "time", "cpu", "memory", "disk", "halt"]
_TICK: Final = 0.05
_DRAIN: Final = 1.0  # seconds for output that is still in the pipe when the command has ended
_FILES: Final = 50_000  # that may be made
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_CPU_SIGNAL: Final = 128 + 24  # SIGXCPU


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a command."""

    status: int
    """As a shell has it: 128 and the signal's number where one ended it."""
    stdout: str
    stderr: str
    truncated: bool
    """Whether some of its output was dropped."""
    seconds: float
    killed: Killed = ""
    """Which of its bounds it was killed for, or that it was halted; "" where it ended by itself."""


def watch(started: Started, bounds: Bounds, halt: Halt | None = None) -> Result:
    """Wait for the end of a command, or bring it about. Nothing of it is left when this returns, whatever happens."""
    begun = time.monotonic()
    process = started.process
    assert process.stdout is not None
    assert process.stderr is not None
    kept = {process.stdout.fileno(): _Kept(bounds.output), process.stderr.fileno(): _Kept(bounds.output)}
    meters = (_Memory(started.root, bounds.memory), _Disk(started, bounds.disk))
    killed: Killed = ""
    ended = os.pidfd_open(process.pid)
    unlisten = halt.on_set(started.kill) if halt else None
    try:
        with selectors.DefaultSelector() as selector:
            for stream in (*kept, ended):
                selector.register(stream, selectors.EVENT_READ)
            until = begun + bounds.seconds
            while selector.get_map():
                now = time.monotonic()
                if now >= until and ended not in selector.get_map():
                    break  # something holds the pipe open
                why: Killed = "time" if now >= until else next((meter.name for meter in meters if meter.exceeded()), "")
                if why and not killed:
                    killed, until = why, now + _DRAIN
                    started.kill()
                for key, _ in selector.select(_TICK):
                    if key.fd == ended:
                        selector.unregister(ended)
                        until = time.monotonic() + _DRAIN
                    elif not kept[key.fd].take(key.fd):
                        selector.unregister(key.fd)
        seconds = time.monotonic() - begun
    finally:
        if unlisten:
            unlisten()
        os.close(ended)
        started.close()
    if halt and halt.is_set() and not killed:
        killed = "halt"
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    if status == _CPU_SIGNAL and not killed:
        killed = "cpu"
    out, err = kept.values()
    return Result(status, out.text(), err.text(), out.dropped + err.dropped > 0, seconds, killed)


class _Kept:
    """The first and the last bytes of a stream."""

    def __init__(self, most: int) -> None:
        self.dropped = 0
        self._room = most - most // 2
        self._most_last = most // 2
        self._first: list[bytes] = []
        self._last: deque[bytes] = deque()
        self._in_last = 0

    def take(self, stream: int) -> bool:
        """Read what there is; whether there may be more."""
        data = os.read(stream, 1 << 16)
        first, rest = data[: self._room], data[self._room :]
        self._room -= len(first)
        self._first.append(first)
        self._last.append(rest)
        self._in_last += len(rest)
        while (over := self._in_last - self._most_last) > 0:
            oldest = self._last.popleft()
            if len(oldest) > over:
                self._last.appendleft(oldest[over:])
            gone = min(len(oldest), over)
            self._in_last -= gone
            self.dropped += gone
        return bool(data)

    def text(self) -> str:
        first, last = (b"".join(part).decode(errors="replace") for part in (self._first, self._last))
        return f"{first}\n[{self.dropped:,} bytes left out]\n{last}" if self.dropped else first + last


class _Memory:
    """Bytes that the processes have in memory, each shared page counted once."""

    name: Final = "memory"

    def __init__(self, root: int, most: int) -> None:
        self._root, self._most = root, most

    def exceeded(self) -> bool:
        processes = list(_descendants(self._root))
        if sum(map(_resident, processes)) <= self._most:
            return False
        return sum(map(_proportional, processes)) > self._most


def _descendants(process: int) -> Iterator[int]:
    yield process
    for task in _listed(f"/proc/{process}/task"):
        for child in _read(f"/proc/{process}/task/{task}/children").split():
            yield from _descendants(int(child))


def _resident(process: int) -> int:
    fields = _read(f"/proc/{process}/statm").split()
    return int(fields[1]) * _PAGE if fields else 0


def _proportional(process: int) -> int:
    for line in _read(f"/proc/{process}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    fields = _read(f"/proc/{process}/statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE if fields else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError):  # it ended
        return ""


def _listed(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return []


class _Disk:
    """What was written since the start. Asked for only where a disk got fuller by more than may be written."""

    name: Final = "disk"

    def __init__(self, started: Started, most: int) -> None:
        self._root, self._folders, self._most = started.root, started.folders, most
        self._since = time.time() - 1.0
        self._before = [self._used(folder) for folder in self._folders]
        self._next = 0.0

    def exceeded(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        for folder, (bytes_before, files_before) in zip(self._folders, self._before):
            bytes_now, files_now = self._used(folder)
            if bytes_now - bytes_before > self._most or files_now - files_before > _FILES:
                written, files = _written(self._folders, self._root, self._since)
                self._next = now + 10 * (time.monotonic() - now)  # others may fill the disk: do not only count
                return written > self._most or files > _FILES
        return False

    @staticmethod
    def _used(folder: str) -> tuple[int, int]:
        try:
            found = os.statvfs(folder)
        except FileNotFoundError:  # the temporary folder goes with the command
            return 0, 0
        return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree


def _written(folders: Sequence[str], root: int, since: float) -> tuple[int, int]:
    """Bytes and number of the files changed since, also of deleted ones that are open; takes at most a second."""
    until = time.monotonic() + 1.0
    size, count, waiting = 0, 0, list(folders)
    while waiting and time.monotonic() < until:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(entry.path)
                if found.st_ctime >= since:
                    size, count = size + found.st_blocks * 512, count + 1
    if waiting:
        return 1 << 62, count  # too many to count, on a disk that got fuller
    for process in _descendants(root):
        for descriptor in _listed(f"/proc/{process}/fd"):
            with suppress(OSError):
                found = Path(f"/proc/{process}/fd/{descriptor}").stat()
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                    size += found.st_blocks * 512
    return size, count
