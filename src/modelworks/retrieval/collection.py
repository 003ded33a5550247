"""A collection: a folder's documents, searchable by words and by meaning."""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args

from modelworks.core.errors import ConfigError
from modelworks.data.document import Document
from modelworks.retrieval import doctor, fuse, lexical
from modelworks.retrieval.chunk import STRATEGIES, Chunk
from modelworks.retrieval.dense import EXACT_LIMIT, DenseIndex
from modelworks.retrieval.embed import DEFAULT_EMBEDDER, Embedder, EncoderEmbedder
from modelworks.retrieval.store import DocumentInfo, Store, StoredDocument
from modelworks.retrieval.sync import Sync, SyncReport, embed_pending
from modelworks.retrieval.where import Filter, compile_where
from modelworks.text.words import index_form

if TYPE_CHECKING:
    from modelworks.retrieval.answer import Answer

Mode = Literal["fused", "lexical", "dense"]
_CANDIDATES = 100  # of each search go into a fusion; nDCG@10 does not change from here on
_SCORED = 1000  # BM25 scores that a fusion knows, so that few candidates of the vector search lack theirs


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found: characters `start:end` of the text of `document` are exactly `text`."""

    id: str
    """Document and place of the chunk in it, as "guides/install.md#3"."""
    document: str
    page: int
    """The first page that the passage touches; 1 in formats without pages."""
    last_page: int
    start: int
    end: int
    text: str
    heading: str
    statements: tuple[tuple[int, int], ...]
    """The sentences, items, rows and lines that can be cited, in characters of the document's text."""
    score: float
    """What the hits are ordered by; comparable within one search only."""
    lexical: float | None
    """BM25; None where no word is shared, or words were not searched."""
    dense: float | None
    """Cosine; None where there is no vector, or meaning was not searched."""


class Hits(list[Hit]):
    """Hits, best first. `coverage` is the share of chunks that have a vector: below 1, search by meaning is partial."""

    def __init__(self, hits: Iterable[Hit], coverage: float) -> None:
        super().__init__(hits)
        self.coverage = coverage


@dataclass(frozen=True, slots=True)
class _FileReader:
    """Reads and chunks a file for an embedder; travels to worker processes."""

    embedder: Embedder
    chunking: str

    def __call__(self, path: Path) -> tuple[Document, Sequence[Chunk]]:
        from modelworks.data.documents import load

        document = load(path)
        cut = STRATEGIES[self.chunking]
        return document, cut(document, count_tokens=self.embedder.count_tokens, max_tokens=self.embedder.max_tokens)


class Collection:
    """Documents of one or more folders, kept in a folder of their own. Use it in a `with`, or close it.

    Threads may share one; so may processes, each with its own `Collection` of the same path.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        embedder: Embedder | str | None = None,
        *,
        exact_limit: int = EXACT_LIMIT,
    ) -> None:
        """Open the collection in the folder `path`, made where it is missing; nothing heavy is loaded.

        embedder: a model reference as for `modelworks.load`, or an `Embedder`; None takes the one that the collection
        was indexed with, `starter-embedder` for a new one. exact_limit: vectors up to which search by meaning scans
        them all. Raises StoreError where the folder cannot be used.
        """
        self._store = Store(Path(path).expanduser())
        if embedder is None:
            embedder = self._store.embedder_ref() or DEFAULT_EMBEDDER
        self.embedder: Embedder = EncoderEmbedder(embedder) if isinstance(embedder, str) else embedder
        self._dense = DenseIndex(self._store, exact_limit=exact_limit)
        self._coverage: tuple[int, float] | None = None

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; calling it again does nothing."""
        self._store.close()

    @property
    def path(self) -> Path:
        return self._store.folder

    @staticmethod
    def discard(path: str | os.PathLike[str]) -> None:
        """Delete a collection's files, even damaged ones, for indexing anew; other files in its folder stay."""
        Store.discard(Path(path).expanduser())

    # Filling

    def sync(
        self,
        folder: str | os.PathLike[str],
        *,
        ignore: Sequence[str] | None = None,
        hidden: bool | None = None,
        workers: int = 1,
        chunking: str | None = None,
        embed: bool = True,
        rebuild: bool = False,
        progress: bool = False,
    ) -> SyncReport:
        """Make the collection equal to what `folder` holds: new, edited, renamed and deleted files.

        Documents are named by their path relative to `folder`; those of other folders stay. Word search finds a
        document as soon as it is read; vectors are made afterwards. A run that is cut off is finished by the next.

        ignore: patterns of names or relative paths to leave out. hidden: take in names with a leading dot. None keeps
        what this folder was last synced with, at first nothing ignored and nothing hidden taken in. workers: processes
        that read files. chunking: one of `modelworks.retrieval.chunk.STRATEGIES`; None keeps what the collection has,
        "structure" in a new one. embed: False leaves the vectors to a later `embed`. rebuild: read every file again
        and make every vector again with this collection's embedder. progress: show bars on a terminal.

        Raises DocumentError where `folder` cannot be read, ConfigError for an unknown chunking, StoreError where the
        store cannot be written or its vectors are another model's. A file that cannot be read is a line in the report.
        """
        began = time.perf_counter()
        chunking = chunking or self._store.chunking() or next(iter(STRATEGIES))
        if chunking not in STRATEGIES:
            raise ConfigError(f"sync: unknown chunking {chunking!r}; there are {', '.join(STRATEGIES)}")
        reader = _FileReader(self.embedder, chunking)
        run = Sync(self._store, Path(folder).expanduser(), reader, workers=workers, quiet=not progress)
        if rebuild:
            self._store.bind_embedder(self.embedder.id, self.embedder.dimension, ref=_ref(self.embedder), replace=True)
        else:
            self._store.check_embedder(self.embedder)
        # Cut another way, every chunk is another, so every file is read again.
        self._store.note_chunking(chunking, self.embedder.max_tokens, reread=rebuild)
        run.run(ignore=ignore, hidden=hidden)
        embedded = self.embed(progress=progress) if embed else 0
        return SyncReport(
            tuple(run.files[name] for name in sorted(run.files)),
            run.chunks_added,
            run.chunks_removed,
            embedded,
            time.perf_counter() - began,
        )

    def embed(self, *, seconds: float | None = None, progress: bool = False) -> int:
        """Make the vectors that are missing, for about `seconds` at most; return how many texts were embedded.

        Raises StoreError as `sync`.
        """
        done = embed_pending(self._store, self.embedder, seconds=seconds, quiet=not progress)
        self._dense.prepare()
        return done

    def remove(self, name: str) -> None:
        """Delete a document's text, chunks, words and vectors, and keep it out of later syncs.

        Raises StoreError where there is no document called `name`.
        """
        self._store.exclude(name)
        self._dense.prepare()

    def restore(self, name: str) -> None:
        """Let the next sync take in a document that was removed; raises StoreError where `name` was not."""
        self._store.restore(name)

    # Looking

    def documents(self, *, removed: bool = False) -> list[DocumentInfo]:
        """The documents by name, skipped files with their reasons among them; or those that `remove` keeps out."""
        return self._store.documents(excluded=removed)

    def document(self, name: str) -> StoredDocument:
        """A document's text, title and pages; raises StoreError where it is not in the collection."""
        return self._store.document(name)

    def document_text(self, name: str) -> str:
        """The text that offsets count in; raises StoreError where `name` is not in the collection."""
        return self._store.document(name).text

    def page_of(self, name: str, offset: int) -> int:
        """The number of the page that holds a character; raises StoreError where `name` is not in the collection."""
        pages = self._store.document(name).pages
        if not pages:
            return 1
        return pages[max(0, bisect.bisect_right([page.start for page in pages], offset) - 1)].number

    def coverage(self) -> float:
        """The share of chunks that have a vector; 1 for a collection without chunks."""
        revision = self._store.revision()
        if self._coverage is None or self._coverage[0] != revision:
            embedded, chunks = self._store.vector_counts()
            self._coverage = revision, embedded / chunks if chunks else 1.0
        return self._coverage[1]

    def doctor(self, *, repair: bool = False) -> doctor.DoctorReport:
        """Check the store against itself; with `repair`, mend what can be mended and embed what has no vector."""
        report = doctor.examine(self._store, repair=repair)
        if repair and report.ok:
            self.embed()
        return report

    def fingerprint(self) -> str:
        """A hash of all that the collection holds, the same however it came to hold it."""
        return self._store.fingerprint()

    # Searching

    def search(self, query: str, k: int = 10, mode: Mode = "fused", where: Mapping[str, object] | None = None) -> Hits:
        """The `k` best passages for a query.

        mode: "lexical" (words, BM25), "dense" (meaning, cosine) or "fused". Search by meaning takes the vectors that
        there are, see `Hits.coverage`; "fused" is "lexical" while there are none. where: a filter that acts before the
        best are chosen, such as {"document": "guides/*", "page": 3}; see `modelworks.retrieval.where`.

        Raises ConfigError for an unknown mode or filter, StoreError where the vectors are another model's.
        """
        if mode not in get_args(Mode):
            raise ConfigError(f"search: unknown mode {mode!r}; modes are {', '.join(get_args(Mode))}")
        if k < 1:
            raise ConfigError(f"search: k is the number of hits, at least 1, not {k}")
        condition = compile_where(where)
        coverage = self.coverage()
        words: dict[int, float] = {}
        meaning: dict[int, float] = {}
        if mode == "lexical" or (mode == "fused" and (coverage == 0 or not query.strip())):
            words = dict(lexical.search(self._store, query, k, condition))
            scores = words
        elif mode == "dense":
            scores = meaning = self._search_dense(query, k, condition, ())
        else:
            depth = max(_CANDIDATES, k)
            words = dict(lexical.search(self._store, query, max(_SCORED, k), condition))
            best_words = list(words)[:depth]
            meaning = self._search_dense(query, depth, condition, best_words)
            candidates = {chunk: words[chunk] for chunk in [*best_words, *meaning] if chunk in words}
            scores = fuse.weighted_sum(candidates, meaning)
        return Hits(self._hits(scores, words, meaning, k), coverage)

    def _search_dense(self, query: str, limit: int, where: Filter | None, others: Iterable[int]) -> dict[int, float]:
        """Cosines of the nearest chunks and of `others`."""
        if not query.strip() or self._store.embedder() is None:
            return {}
        self._store.check_embedder(self.embedder)
        query_C = self.embedder.embed([index_form(query)])[0]
        scores = dict(self._dense.search(query_C, limit, where))
        return scores | self._dense.scores(query_C, [chunk for chunk in others if chunk not in scores])

    def _hits(
        self, scores: Mapping[int, float], words: Mapping[int, float], meaning: Mapping[int, float], k: int
    ) -> list[Hit]:
        best = sorted(scores, key=lambda chunk: -scores[chunk])[: 2 * k]  # some spare, for ties and deletions meanwhile
        with self._store.snapshot():  # places and texts of one moment, whatever other processes write
            chunks = self._store.chunks(best)
            # Ties fall by name and place: ids tell only in which order files happened to be read.
            order = sorted(chunks.values(), key=lambda chunk: (-scores[chunk.id], chunk.document, chunk.ordinal))[:k]
            texts = self._store.texts({chunk.document for chunk in order})
        return [
            Hit(
                f"{chunk.document}#{chunk.ordinal}",
                chunk.document,
                chunk.first_page,
                chunk.last_page,
                chunk.start,
                chunk.end,
                texts[chunk.document][chunk.start : chunk.end],
                chunk.heading,
                chunk.statements,
                scores[chunk.id],
                words.get(chunk.id),
                meaning.get(chunk.id),
            )
            for chunk in order
        ]

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer a question with cited sentences, or refuse; see `modelworks.retrieval.answer.stream` for options."""
        from modelworks.retrieval.answer import ask

        return ask(self, question, **options)


def _ref(embedder: Embedder) -> str:
    return getattr(embedder, "ref", "")
