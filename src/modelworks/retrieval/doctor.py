"""Checking a collection against itself, and mending what can be mended."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from modelworks.core.errors import StoreError
from modelworks.data.document import Page
from modelworks.retrieval.database import DamagedError
from modelworks.retrieval.projection import Projection
from modelworks.retrieval.store import VECTOR_DTYPE, Store, text_hash


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    repaired: bool = False
    """It was not ok, and is now."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all is well, at once or after repair."""
        return all(check.ok or check.repaired for check in self.checks)


def examine(store: Store, *, repair: bool = False) -> DoctorReport:
    """Run every check; with `repair`, mend what fails.

    What is derived is made anew: words from chunks, the approximate index from vectors. What the truth itself has wrong
    is dropped, so that the next sync reads those files or makes those vectors again. A damaged file is beyond repair.
    """
    checks = [_file(store)]
    if checks[0].ok:
        checks += [
            _offsets(store, repair),
            _words(store, repair),
            _vectors(store, repair),
            _orphans(store, repair),
            _projection(store, repair),
        ]
    return DoctorReport(tuple(checks))


_REBUILD = "run `modelworks index FOLDER --rebuild`"


def _file(store: Store) -> Check:
    """Pages, indexes and references of the tables that hold the truth; the word index has its own check."""
    faults = [
        row[0]
        for table in ("meta", "documents", "chunks", "embeddings")
        for row in store.rows(f"PRAGMA quick_check('{table}')")
        if row[0] != "ok"
    ]
    if faults:
        return Check("database", False, " ".join(f"{len(faults)} faults, first {faults[0]}: {_REBUILD}".split()))
    dangling = len(store.rows("PRAGMA foreign_key_check"))
    return Check("database", not dangling, f"{dangling} chunks of no document: {_REBUILD}" if dangling else "intact")


def _offsets(store: Store, repair: bool) -> Check:
    """Every chunk lies within its document's text and pages, and its hash is its text's."""
    wrong = [name for (name,) in store.rows("SELECT name FROM documents ORDER BY name") if not _consistent(store, name)]
    if repair:
        for name in wrong:
            store.forget(name)
    detail = f"wrong in {len(wrong)} documents, first {wrong[0]!r}" if wrong else "all within their texts"
    return Check(
        "offsets", not wrong, f"{detail}; the next sync reads them again" if wrong else detail, repair and bool(wrong)
    )


def _consistent(store: Store, name: str) -> bool:
    chunks = store.rows(
        """
        SELECT ordinal, start, "end", first_page, last_page, index_text, text_hash
        FROM chunks JOIN documents ON documents.id = document_id WHERE name = ? ORDER BY ordinal""",
        (name,),
    )
    if not chunks:
        return not store.rows("SELECT 1 FROM documents WHERE name = ? AND status = 'ok'", (name,))
    document = store.document(name)
    numbers = {page.number for page in document.pages} or {1}
    size = len(document.text)
    return (
        all(0 <= page.start <= page.end <= size for page in document.pages)
        and _ascending(document.pages)
        and all(
            ordinal == position and 0 <= start < end <= size and {first, last} <= numbers and key == text_hash(text)
            for position, (ordinal, start, end, first, last, text, key) in enumerate(chunks)
        )
    )


def _ascending(pages: tuple[Page, ...]) -> bool:
    return all(before.end <= after.start for before, after in itertools.pairwise(pages))


def _words(store: Store, repair: bool) -> Check:
    """The word index says what the chunks say."""
    if store.words_match():
        return Check("words", True, "the word index matches the chunks")
    detail = "the word index differs from the chunks"
    if repair:
        try:
            store.rebuild_words()
        except DamagedError as error:
            detail = str(error)
    return Check("words", False, detail, repaired=repair and store.words_match())


def _vectors(store: Store, repair: bool) -> Check:
    """Vectors have the embedder's dimension and are finite; missing ones are only work to do."""
    embedder = store.embedder()
    size = (embedder[1] if embedder else 0) * VECTOR_DTYPE.itemsize
    wrong = []
    last = 0
    while rows := store.rows(
        "SELECT rowid, text_hash, vector FROM embeddings WHERE rowid > ? ORDER BY rowid LIMIT 4096", (last,)
    ):
        last = rows[-1][0]
        for _, key, vector in rows:
            if len(vector) != size or not np.isfinite(np.frombuffer(vector, VECTOR_DTYPE)).all():
                wrong.append(key)
    if wrong and repair:
        store.drop_vectors(wrong)
    embedded, chunks = store.vector_counts()
    detail = f"{embedded} of {chunks} chunks embedded"
    return Check(
        "vectors", not wrong, f"{len(wrong)} unusable vectors" if wrong else detail, repaired=repair and bool(wrong)
    )


def _orphans(store: Store, repair: bool) -> Check:
    count = int(store.value("SELECT count(*) FROM embeddings WHERE text_hash NOT IN (SELECT text_hash FROM chunks)"))
    if count and repair:
        store.drop_orphans()
    return Check(
        "orphans", not count, f"{count} vectors of deleted text" if count else "none", repaired=repair and count > 0
    )


def _projection(store: Store, repair: bool) -> Check:
    """The approximate index, where there is one, mirrors the vectors."""
    if not Projection.exists(store):
        return Check("approximate index", True, "not needed at this size")
    try:
        projection = Projection(store)
        missing, stale = projection.differences()
    except StoreError as error:
        return Check("approximate index", False, str(error))
    if (missing or stale) and repair:
        projection.rebuild()
    level = not missing and not stale
    detail = "mirrors the vectors" if level else f"lacks {len(missing)} vectors and has {len(stale)} deleted ones"
    return Check("approximate index", level, detail, repaired=repair and not level)
