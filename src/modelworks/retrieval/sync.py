"""Keeping a collection equal to a folder.

Two phases. The first reads new and edited files and commits each with its chunks and words, so that word search
answers within seconds. The second fills in vectors, a batch a commit. Both work off the difference between what is
there and what is stored, so a run that was killed is finished by the next one.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import stat
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelworks.core.errors import ConfigError, DocumentError
from modelworks.core.log import Advance, progress
from modelworks.data.document import Document
from modelworks.data.walk import Walk, is_utf8, walk
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.embed import Embedder
from modelworks.retrieval.store import ChunkDelta, FileState, KnownFile, NameTakenError, Store

Outcome = Literal["added", "updated", "unchanged", "renamed", "removed", "skipped", "excluded"]
Reader = Callable[[Path], tuple[Document, Sequence[Chunk]]]
"""Reads and chunks a file; raises DocumentError with the reason where it cannot."""
Result = tuple[Document, Sequence[Chunk]] | DocumentError

_HASHED_LIMIT = 256 << 20  # larger files are refused unread, so nothing would use their hash
_FRESH_NS = 2_000_000_000  # file systems' clocks tick as coarsely as this (FAT)
_EMBEDDED_AT_ONCE = 256  # texts a commit: enough to batch by length, a few seconds of work to lose


@dataclass(frozen=True, slots=True)
class FileReport:
    """What became of one file."""

    name: str
    outcome: Outcome
    detail: str = ""
    """Why a file was skipped, or the name it had before it was renamed."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did: a line a file, in the order of names, and what it cost."""

    files: tuple[FileReport, ...]
    chunks_added: int = 0
    chunks_removed: int = 0
    embedded: int = 0
    """Texts that went through the embedder."""
    seconds: float = 0.0

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many files had each outcome."""
        return dict(Counter(file.outcome for file in self.files))

    @property
    def skipped(self) -> tuple[FileReport, ...]:
        return tuple(file for file in self.files if file.outcome == "skipped")


class _Transient(Exception):
    """A file cannot be read now; nothing is concluded from it, and the next run tries again."""


def examine(path: Path) -> FileState:
    """Size, time and hash of a regular file; raises _Transient where there is none to read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _Transient("not a regular file")
        content_hash = None
        if status.st_size <= _HASHED_LIMIT:
            with path.open("rb") as file:
                content_hash = hashlib.file_digest(file, "blake2b").digest()[:16]
    except FileNotFoundError:
        raise _Transient("it vanished while the folder was being read") from None
    except OSError as error:
        raise _Transient(f"unreadable: {error.strerror}") from None
    # A file written a moment ago may be written again within the same tick of its clock and look the same.
    settled = time.time_ns() - status.st_mtime_ns > _FRESH_NS
    return FileState(content_hash, status.st_size, status.st_mtime_ns if settled else None)


def _same_content(one: FileState, other: FileState) -> bool:
    return one.content_hash == other.content_hash and one.size == other.size


@dataclass(frozen=True, slots=True)
class Job:
    """A file to read, and what it was when that was decided."""

    name: str
    path: Path
    state: FileState


class Sync:
    """One run over one folder; `files` and the counts are its results."""

    def __init__(self, store: Store, folder: Path, reader: Reader, *, workers: int = 1, quiet: bool = True) -> None:
        """Raises DocumentError where `folder` is not a folder that can be read."""
        self.store = store
        self.reader = reader
        self.workers = workers
        self.quiet = quiet
        self.files: dict[str, FileReport] = {}
        self.chunks_added = self.chunks_removed = 0
        try:
            self.folder = folder.resolve(strict=True)
            os.scandir(self.folder).close()
        except OSError as error:
            raise DocumentError(f"{folder}: {error.strerror}; name a folder that can be read") from error
        self.root = str(self.folder)
        if not is_utf8(self.root):
            raise DocumentError(f"{folder}: its path is not UTF-8: rename it")

    def run(self, *, ignore: Sequence[str] | None = None, hidden: bool | None = None) -> None:
        """Bring documents, chunks and words level with the folder; None leaves out what the last run left out."""
        self._adopt()
        before = self.store.walk_options(self.root)
        ignore, hidden = before[0] if ignore is None else tuple(ignore), before[1] if hidden is None else hidden
        if (ignore, hidden) != before:
            self.store.note_walk_options(self.root, ignore, hidden)
        # Before the walk: a document that another process adds meanwhile is then not taken for a deleted one.
        known = self.store.known_files(self.root)
        found = walk(self.folder, ignore=ignore, hidden=hidden, skip=self.store.folder)
        for name, reason in found.unreadable.items():
            self._report(name, "skipped", reason)
        gone = {name: file for name, file in known.items() if name not in found.files}
        with progress("reading", len(found.files), quiet=self.quiet) as advance:
            changed = self._changed_files(found, known, gone, advance)
            for job, result in read_all(changed, self.reader, self.workers):
                self._store(job, result, new=job.name not in known)
                advance(note=job.name)
        # Last, so that the vectors of text that moved to another file are still there to be taken over.
        for name, file in gone.items():
            if file.status == "excluded" or self._unreachable(name, found.unreadable):
                continue
            self.chunks_removed += self.store.forget(name)
            self._report(name, "removed")
        self.store.drop_orphans()

    def _adopt(self) -> None:
        """Take over the documents of a synced folder that is no more, where this one has files of their names."""
        for (root,) in self.store.rows("SELECT DISTINCT root FROM documents WHERE root <> ?", (self.root,)):
            if not Path(root).exists() and any(
                file.state.content_hash and self._holds(name, file.state)
                for name, file in self.store.known_files(root).items()
            ):
                self.store.move_root(root, self.root)

    def _holds(self, name: str, state: FileState) -> bool:
        try:
            return _same_content(examine(self.folder / name), state)
        except _Transient:
            return False

    def _report(self, name: str, outcome: Outcome, detail: str = "") -> None:
        self.files[name] = FileReport(name, outcome, detail)

    def _changed(self, name: str, path: Path, known: KnownFile | None) -> FileState | None:
        """The state of a file that has to be read; None, and a line in the report, for any other."""
        if known is not None and known.status == "excluded":
            self._report(name, "excluded", "removed by hand; `restore` takes it in again")
            return None
        try:
            if known is not None and known.state.mtime_ns is not None:
                status = path.stat()
                if (status.st_size, status.st_mtime_ns) == (known.state.size, known.state.mtime_ns):
                    self._unchanged(name, known)
                    return None
            state = examine(path)
        except (OSError, _Transient) as error:
            kept = "; what was indexed before is kept" if known is not None and known.status == "ok" else ""
            self._report(name, "skipped", f"{getattr(error, 'strerror', None) or error}{kept}")
            return None
        if known is None or not _same_content(state, known.state):
            return state
        if state.mtime_ns is not None:
            self.store.touch(name, state)
        self._unchanged(name, known)
        return None

    def _unchanged(self, name: str, known: KnownFile) -> None:
        self._report(name, "skipped" if known.status == "skipped" else "unchanged", known.reason)

    def _changed_files(
        self, found: Walk, known: Mapping[str, KnownFile], gone: dict[str, KnownFile], advance: Advance
    ) -> Iterator[Job]:
        """Yield the files that have to be read; report the others, and take renamed ones off `gone`."""
        by_hash: dict[bytes, list[str]] = {}
        for name, file in gone.items():
            if file.state.content_hash is not None:
                by_hash.setdefault(file.state.content_hash, []).append(name)
        for name, path in found.files.items():
            state = self._changed(name, path, known.get(name))
            if state is not None and name not in known:
                candidates = by_hash.get(state.content_hash or b"", [])
                # Another suffix may mean another format, and so another text.
                old = next((each for each in candidates if Path(each).suffix == path.suffix), None)
                if old is not None and self.store.rename(old, name, state):
                    candidates.remove(old)
                    excluded = gone.pop(old).status == "excluded"
                    self._report(name, "excluded" if excluded else "renamed", f"was {old}")
                    state = None
            if state is None:
                advance()
            else:
                yield Job(name, path, state)

    def _store(self, job: Job, result: Result, *, new: bool) -> None:
        """Commit what reading a file gave, if the file is still the one that was looked at."""
        name, path, state = job.name, job.path, job.state
        try:
            after = examine(path)
        except _Transient as error:
            return self._report(name, "skipped", str(error))
        if not _same_content(state, after):
            return self._report(name, "skipped", "it changed while it was being read: run again")
        try:
            if isinstance(result, DocumentError):
                self.chunks_removed += self.store.put_skipped(name, self.root, state, str(result))
                return self._report(name, "skipped", str(result))
            delta = self.store.put_document(name, self.root, state, *result)
        except NameTakenError as error:
            return self._report(name, "skipped", str(error))
        self._count(delta)
        return self._report(name, "added" if new else "updated")

    def _count(self, delta: ChunkDelta) -> None:
        self.chunks_added += delta.added
        self.chunks_removed += delta.removed

    def _unreachable(self, name: str, unreadable: Iterable[str]) -> bool:
        """Whether a missing file is only out of reach, behind a folder or link that could not be read."""
        return any(
            name == place or place == "./" or (place.endswith("/") and name.startswith(place)) for place in unreadable
        )


def read_all(jobs: Iterable[Job], reader: Reader, workers: int) -> Iterator[tuple[Job, Result]]:
    """Read and chunk files in order, with several workers in processes of their own."""
    if workers <= 1:
        for job in jobs:
            yield job, _read(reader, job.path)
        return
    yield from _read_in_processes(iter(jobs), reader, workers)


def _read(reader: Reader, path: Path) -> Result:
    try:
        document, chunks = reader(path)
    except DocumentError as error:
        return error
    return (document, chunks) if chunks else DocumentError("no text in it")


_worker_reader: Reader | None = None


def _start_worker(reader: Reader) -> None:
    global _worker_reader
    _worker_reader = reader


def _started() -> None:
    """What a worker is asked first, so that one that cannot start is not taken for one that a file killed."""


def _read_in_worker(path: Path) -> Result:
    assert _worker_reader is not None
    return _read(_worker_reader, path)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while workers are started: they inherit that, and leave it to this process to end them."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read_in_processes(jobs: Iterator[Job], reader: Reader, workers: int) -> Iterator[tuple[Job, Result]]:
    """A file whose reader dies with its process (a fault in a native parser) costs that file, not the run."""
    # Imported here: 30 ms that a search should not pay.
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")  # a fork would copy this process's locks in mid-flight
    waiting: deque[Job] = deque()  # taken from `jobs`, not yielded yet
    suspects = 0  # how many of those were running when a process died: they go one at a time
    while True:
        # Only a few ahead: results wait in memory, and a crash throws them away.
        ahead = 1 if suspects else 2 * workers
        running: deque[Future[Result]] = deque()
        with ProcessPoolExecutor(
            1 if suspects else workers, context, initializer=_start_worker, initargs=(reader,)
        ) as pool:
            try:
                with _uninterrupted():
                    started = pool.submit(_started)
                started.result()
            except BrokenProcessPool:
                raise ConfigError(
                    "the processes that read files do not start: use workers=1, or, in a script, call `sync` under "
                    '`if __name__ == "__main__":`'
                ) from None
            try:
                while True:
                    while len(waiting) < ahead and (job := next(jobs, None)) is not None:
                        waiting.append(job)
                    if not waiting:
                        return
                    with _uninterrupted():
                        running.extend(
                            pool.submit(_read_in_worker, job.path) for job in list(waiting)[len(running) : ahead]
                        )
                    result = running.popleft().result()
                    yield waiting.popleft(), result
                    if suspects:
                        suspects -= 1
                        if not suspects:
                            break
            except BrokenProcessPool:
                if suspects:
                    suspects -= 1
                    yield (
                        waiting.popleft(),
                        DocumentError("its reader crashed: the file is damaged in an unforeseen way"),
                    )
                else:
                    suspects = len(waiting)


def embed_pending(store: Store, embedder: Embedder, *, seconds: float | None = None, quiet: bool = True) -> int:
    """Give every chunk text that lacks one its vector; return how many were made.

    `seconds` ends the work after the batch in which that time is up. Raises StoreError where the store's vectors are
    another model's.
    """
    total = store.count_pending()
    if not total:
        return 0
    store.bind_embedder(embedder.id, embedder.dimension, ref=getattr(embedder, "ref", ""))
    done = last = 0
    # Short of time, batches are small, so that the work ends near the time that was given.
    at_once = _EMBEDDED_AT_ONCE if seconds is None else _EMBEDDED_AT_ONCE // 8
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    with progress("embedding", total, quiet=quiet) as advance:
        while time.monotonic() < deadline and (pending := store.pending(at_once, after=last)):
            last = pending[-1][0]
            texts = {key: text for _, key, text in pending}
            vectors = embedder.embed(list(texts.values()))
            store.put_vectors(embedder.id, zip(texts, vectors, strict=True))
            done += len(texts)
            advance(len(texts))
    return done
