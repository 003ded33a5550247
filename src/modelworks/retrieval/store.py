"""The truth of a collection: one SQLite file (WAL) with documents, chunks, word index and vectors.

Whatever belongs together is written in one transaction, so a process killed at any point leaves a consistent store:
a document with all its chunks and words, or none of them. What remains to do is never written down: a file that has
no row is not indexed yet, a chunk without a vector is not embedded yet. Vectors are kept by the hash of the text they
were made from, so a renamed file, an edit elsewhere in a file or a copy costs no embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import StoreError
from modelworks.data.document import Document, Page
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.database import Database
from modelworks.retrieval.embed import Embedder
from modelworks.text.words import cjk_terms, index_form

VECTOR_DTYPE = np.dtype("<f2")

Status = Literal["ok", "skipped", "excluded"]


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file was when it was read. `mtime_ns` is None where it is too fresh to prove "unchanged" later."""

    content_hash: bytes | None
    size: int
    mtime_ns: int | None


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the store holds about a file of a synced folder."""

    status: Status
    reason: str
    state: FileState


@dataclass(frozen=True, slots=True)
class ChunkDelta:
    """What replacing a document changed, counted in chunk texts."""

    added: int
    removed: int
    kept: int


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """A row of `Collection.documents()`."""

    name: str
    root: str
    """The folder whose file `name` is, as an absolute path."""
    status: Status
    reason: str
    """Why a document was skipped; empty for the others."""
    media_type: str
    title: str
    size: int
    notes: tuple[str, ...]
    pages: int
    chunks: int
    embedded: int
    """How many of the chunks have a vector."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document's text and pages, as they were when it was indexed."""

    name: str
    title: str
    media_type: str
    text: str
    pages: tuple[Page, ...]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk's place: `text[start:end]` of the document called `document`."""

    id: int
    document: str
    ordinal: int
    start: int
    end: int
    first_page: int
    last_page: int
    heading: str
    statements: tuple[tuple[int, int], ...]
    """What can be cited, see `Chunk.statements`."""


def text_hash(text: str) -> str:
    """The key of a text's vector: 16 bytes of BLAKE2b in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class NameTakenError(StoreError):
    """A file of another synced folder has the name already."""


class Store(Database):
    """What a collection holds; safe to share between threads, and its file between processes."""

    # Reading

    def known_files(self, root: str) -> dict[str, KnownFile]:
        """By name, what is stored about the files of one synced folder."""
        rows = self.rows(
            "SELECT name, status, reason, content_hash, size, mtime_ns FROM documents WHERE root = ?", (root,)
        )
        return {name: KnownFile(status, reason, FileState(*state)) for name, status, reason, *state in rows}

    def documents(self, *, excluded: bool = False) -> list[DocumentInfo]:
        """The documents by name, read ones and skipped ones; or those that were removed by hand."""
        rows = self.rows(
            f"""
            SELECT name, root, status, reason, media_type, documents.title, coalesce(size, 0), notes,
                json_array_length(pages), count(chunks.id), count(embeddings.text_hash)
            FROM documents
            LEFT JOIN chunks ON chunks.document_id = documents.id
            LEFT JOIN embeddings ON embeddings.text_hash = chunks.text_hash
            WHERE status {"=" if excluded else "<>"} 'excluded'
            GROUP BY documents.id ORDER BY name"""
        )
        return [
            DocumentInfo(name, root, status, reason, media_type, title, size, tuple(json.loads(notes)), *counts)
            for name, root, status, reason, media_type, title, size, notes, *counts in rows
        ]

    def document(self, name: str) -> StoredDocument:
        """One document's text and pages; raises StoreError where it is not in the collection."""
        rows = self.rows(
            "SELECT name, title, media_type, text, pages FROM documents WHERE name = ? AND status = 'ok'", (name,)
        )
        if not rows:
            raise StoreError(f"{name!r} is not in the collection; `modelworks docs list` shows what is")
        name, title, media_type, text, pages = rows[0]
        return StoredDocument(name, title, media_type, text, tuple(Page(*page) for page in json.loads(pages)))

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """The texts of some documents; those that are not in the collection are absent."""
        sql = "SELECT name, text FROM documents WHERE name IN (SELECT value FROM json_each(?))"
        return dict(self.rows(sql, (json.dumps(list(names)),)))

    def chunks(self, ids: Iterable[int]) -> dict[int, StoredChunk]:
        """The chunks with these ids; those deleted meanwhile are absent."""
        rows = self.rows(
            """
            SELECT chunks.id, name, ordinal, start, "end", first_page, last_page, heading, statements
            FROM json_each(?) JOIN chunks ON chunks.id = json_each.value
            JOIN documents ON documents.id = chunks.document_id""",
            (json.dumps(list(ids)),),
        )
        # The last column is JSON.
        return {row[0]: StoredChunk(*[*row[:-1], tuple(map(tuple, json.loads(row[-1])))]) for row in rows}

    # Writing

    def put_document(
        self, name: str, root: str, state: FileState, document: Document, chunks: Sequence[Chunk]
    ) -> ChunkDelta:
        """Write a document with its chunks and words in place of what was stored under its name.

        A document that was removed by hand stays out. Raises NameTakenError where the name belongs to another folder.
        """
        hashes = [text_hash(chunk.index_text) for chunk in chunks]
        title = index_form(document.title)
        with self._transaction() as connection:
            if self._claim(name, root) == "excluded":
                return ChunkDelta(0, 0, 0)
            old = Counter(
                row[0]
                for row in connection.execute(
                    "SELECT text_hash FROM chunks JOIN documents ON documents.id = document_id WHERE name = ?", (name,)
                )
            )
            document_id = self._replace_row(
                name,
                root,
                "ok",
                "",
                state,
                media_type=document.media_type,
                title=document.title,
                notes=json.dumps(document.notes),
                pages=json.dumps([[page.number, page.start, page.end, page.label] for page in document.pages]),
                text=document.text,
            )
            connection.executemany(
                """
                INSERT INTO chunks (document_id, ordinal, start, "end", first_page, last_page,
                    text_hash, title, heading, index_text, cjk, statements)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    (
                        document_id,
                        ordinal,
                        chunk.start,
                        chunk.end,
                        *_page_range(document.pages, chunk),
                        key,
                        title,
                        chunk.heading,
                        chunk.index_text,
                        cjk_terms(f"{title}\n{chunk.index_text}"),
                        json.dumps(chunk.statements, separators=(",", ":")),
                    )
                    for ordinal, (chunk, key) in enumerate(zip(chunks, hashes, strict=True))
                ),
            )
        new = Counter(hashes)
        return ChunkDelta((new - old).total(), (old - new).total(), (new & old).total())

    def put_skipped(self, name: str, root: str, state: FileState, reason: str) -> int:
        """Note that a file is not indexed and why, in place of what was stored; return the chunks dropped."""
        with self._transaction() as connection:
            if self._claim(name, root) == "excluded":
                return 0
            dropped = self._count_chunks(name)
            self._replace_row(name, root, "skipped", reason, state)
            del connection
        return dropped

    def _claim(self, name: str, root: str) -> Status | None:
        """The status of the row called `name`, None where there is none; refuses another folder's name."""
        row = self._connection.execute("SELECT status, root FROM documents WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        if row[1] != root:
            raise NameTakenError(
                f"a file of {row[1]} has this name: give each folder a collection, or sync their parent"
            )
        status: Status = row[0]
        return status

    def _count_chunks(self, name: str) -> int:
        return int(
            self._value(
                "SELECT count(*) FROM chunks JOIN documents ON documents.id = document_id WHERE name = ?", (name,)
            )
        )

    def _replace_row(
        self, name: str, root: str, status: Status, reason: str, state: FileState | None, **content: str
    ) -> int:
        """Put a document's row in place of an old one, whose chunks, words and text go; return its id."""
        self._connection.execute("DELETE FROM documents WHERE name = ?", (name,))
        columns = {"media_type": "", "title": "", "notes": "[]", "pages": "[]", "text": ""} | content
        file = (state.content_hash, state.size, state.mtime_ns) if state else (None, None, None)
        cursor = self._connection.execute(
            f"""
            INSERT INTO documents (name, root, status, reason, content_hash, size, mtime_ns, {", ".join(columns)})
            VALUES (?, ?, ?, ?, ?, ?, ?{", ?" * len(columns)})""",
            (name, root, status, reason, *file, *columns.values()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def touch(self, name: str, state: FileState) -> None:
        """Note a new modification time for a file whose content is what is stored."""
        with self._transaction(moves=False) as connection:
            connection.execute(
                "UPDATE documents SET mtime_ns = ? WHERE name = ? AND content_hash IS ?",
                (state.mtime_ns, name, state.content_hash),
            )

    def rename(self, old: str, new: str, state: FileState) -> bool:
        """Give a document a new name, with all it has; False where another process was faster."""
        with self._transaction() as connection:
            cursor = connection.execute(
                """
                UPDATE documents SET name = ?, mtime_ns = ? WHERE name = ? AND content_hash IS ?
                AND NOT EXISTS (SELECT 1 FROM documents WHERE name = ?)""",
                (new, state.mtime_ns, old, state.content_hash, new),
            )
            return cursor.rowcount == 1

    def move_root(self, old: str, new: str) -> None:
        """A synced folder was moved: its documents now belong to the folder's new path."""
        with self._transaction() as connection:
            connection.execute("UPDATE documents SET root = ? WHERE root = ?", (new, old))
            connection.execute("UPDATE OR REPLACE meta SET key = ? WHERE key = ?", (f"walk:{new}", f"walk:{old}"))

    def walk_options(self, root: str) -> tuple[tuple[str, ...], bool]:
        """The ignored patterns, and whether hidden files count, that a folder was last synced with."""
        recorded = json.loads(self.meta(f"walk:{root}") or '{"ignore": [], "hidden": false}')
        return tuple(recorded["ignore"]), recorded["hidden"]

    def note_walk_options(self, root: str, ignore: Sequence[str], hidden: bool) -> None:
        """Remember them for the folder's next sync."""
        value = json.dumps({"ignore": [*ignore], "hidden": hidden})
        with self._transaction(moves=False) as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"walk:{root}", value))

    def forget(self, name: str) -> int:
        """Delete a document and all that came of it, vectors included; return how many chunks went."""
        with self._transaction() as connection:
            dropped = self._count_chunks(name)
            connection.execute("DELETE FROM documents WHERE name = ?", (name,))
            self._drop_orphans()
        return dropped

    def exclude(self, name: str) -> int:
        """Delete what came of a document, and keep it out of later syncs; return how many chunks went.

        Its text is overwritten on disk too; only its name and hash stay, to know it again. Raises StoreError where no
        document is called `name`.
        """
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT root, content_hash, size, mtime_ns FROM documents WHERE name = ? AND status <> 'excluded'",
                (name,),
            ).fetchone()
            if row is None:
                raise StoreError(f"{name!r} is not in the collection; `modelworks docs list` shows what is")
            dropped = self._count_chunks(name)
            self._replace_row(name, row[0], "excluded", "", FileState(*row[1:]))
            self._drop_orphans()
            # FTS5 only marks words as deleted; merging its segments makes them go.
            connection.execute("INSERT INTO chunks_fts (chunks_fts) VALUES ('optimize')")
        self.checkpoint()
        return dropped

    def restore(self, name: str) -> None:
        """Let the next sync index a document that `exclude` keeps out; raises StoreError where none is."""
        with self._transaction() as connection:
            cursor = connection.execute("DELETE FROM documents WHERE name = ? AND status = 'excluded'", (name,))
            if not cursor.rowcount:
                raise StoreError(f"{name!r} was not removed from the collection, so there is nothing to restore")

    def chunking(self) -> str | None:
        """The strategy that files were cut with; None before the first sync."""
        recorded = self.meta("chunking")
        return recorded.partition("/")[0] if recorded else None

    def note_chunking(self, strategy: str, max_tokens: int, *, reread: bool = False) -> None:
        """Record how files are cut into chunks; where that has changed, or on `reread`, the next sync reads all."""
        settings = f"{strategy}/{max_tokens}"
        recorded = self.meta("chunking")
        if recorded == settings and not reread:
            return
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('chunking', ?)", (settings,))
            if recorded is not None:
                connection.execute(
                    "UPDATE documents SET content_hash = NULL, mtime_ns = NULL WHERE status <> 'excluded'"
                )

    # Vectors

    def embedder(self) -> tuple[str, int] | None:
        """Id and dimension of the model that made the vectors; None before the first."""
        recorded = self.meta("embedder")
        if recorded is None:
            return None
        value = json.loads(recorded)
        return value["id"], value["dimension"]

    def embedder_ref(self) -> str | None:
        """What that model was called when it was loaded, so that it can be loaded again."""
        recorded = self.meta("embedder")
        return json.loads(recorded)["ref"] if recorded else None

    def bind_embedder(self, embedder_id: str, dimension: int, *, ref: str = "", replace: bool = False) -> None:
        """Record whose vectors these are. Raises StoreError where another model made those that are there.

        `replace` drops all vectors instead.
        """
        with self._transaction() as connection:
            recorded = self.embedder()
            if recorded is not None and not replace:
                if recorded != (embedder_id, dimension):
                    raise _other_embedder(recorded, (embedder_id, dimension))
                return
            connection.execute("DELETE FROM embeddings")
            value = json.dumps({"id": embedder_id, "dimension": dimension, "ref": ref})
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('embedder', ?)", (value,))

    def check_embedder(self, embedder: Embedder) -> None:
        """Raise StoreError where the vectors are not this model's."""
        recorded = self.embedder()
        if recorded is not None and recorded[0] != embedder.id:
            raise _other_embedder(recorded, (embedder.id, embedder.dimension))

    def count_pending(self) -> int:
        """How many distinct texts have no vector yet."""
        return int(
            self.value(
                "SELECT count(DISTINCT text_hash) FROM chunks WHERE text_hash NOT IN (SELECT text_hash FROM embeddings)"
            )
        )

    def pending(self, limit: int, *, after: int = 0) -> list[tuple[int, str, str]]:
        """Up to `limit` chunks without a vector, by ascending id: (id, text hash, text).

        New chunks have higher ids than all before them, so one pass with growing `after` meets every one.
        """
        return self.rows(
            """
            SELECT id, text_hash, index_text FROM chunks WHERE id > ?
            AND NOT EXISTS (SELECT 1 FROM embeddings WHERE embeddings.text_hash = chunks.text_hash)
            ORDER BY id LIMIT ?""",
            (after, limit),
        )

    def put_vectors(self, embedder_id: str, vectors: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Write vectors by text hash, as float16; those of texts deleted meanwhile are dropped.

        Raises StoreError where another process has rebuilt the collection with another model.
        """
        rows = [(key, vector.astype(VECTOR_DTYPE).tobytes(), key) for key, vector in vectors]
        with self._transaction() as connection:
            recorded = self.embedder()
            if recorded is None or recorded[0] != embedder_id:
                raise StoreError("the collection was rebuilt with another model meanwhile: run again")
            connection.executemany(
                "INSERT OR IGNORE INTO embeddings SELECT ?, ? WHERE EXISTS (SELECT 1 FROM chunks WHERE text_hash = ?)",
                rows,
            )

    def note_projection(self, revision: str) -> None:
        """Remember that the approximate index mirrors the vectors of this revision."""
        with self._transaction(moves=False) as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('projection', ?)", (revision,))

    def vector_counts(self) -> tuple[int, int]:
        """How many chunks have a vector, and how many there are."""
        embedded = self.value("SELECT count(*) FROM chunks JOIN embeddings USING (text_hash)")
        return embedded, self.value("SELECT count(*) FROM chunks")

    def drop_orphans(self) -> int:
        """Delete the vectors of texts that no chunk has any more; return how many went."""
        with self._transaction():
            return self._drop_orphans()

    def _drop_orphans(self) -> int:
        return self._connection.execute(
            "DELETE FROM embeddings WHERE text_hash NOT IN (SELECT text_hash FROM chunks)"
        ).rowcount

    # Checking

    def drop_vectors(self, keys: Iterable[str]) -> None:
        """Delete some texts' vectors, to be made again."""
        with self._transaction() as connection:
            connection.executemany("DELETE FROM embeddings WHERE text_hash = ?", [(key,) for key in keys])

    def fingerprint(self) -> str:
        """A hash of all that the store holds, free of row ids, times and paths: equal stores have equal ones.

        Of the vectors it takes whose they are and which exist; their last bits depend on how texts were batched.
        """
        digest = hashlib.sha256(repr(self.embedder()).encode())
        for (document_id,) in self.rows("SELECT id FROM documents ORDER BY name"):
            document = self.rows(
                """
                SELECT name, status, reason, hex(content_hash), size, media_type, title, notes, pages, text
                FROM documents WHERE id = ?""",
                (document_id,),
            )
            chunks = self.rows(
                """
                SELECT ordinal, start, "end", first_page, last_page, title, heading, index_text, cjk, statements,
                    text_hash, EXISTS (SELECT 1 FROM embeddings WHERE embeddings.text_hash = chunks.text_hash)
                FROM chunks WHERE document_id = ? ORDER BY ordinal""",
                (document_id,),
            )
            digest.update(json.dumps([document, chunks]).encode())
        digest.update(json.dumps(self.rows("SELECT text_hash FROM embeddings ORDER BY text_hash")).encode())
        return digest.hexdigest()


def _page_range(pages: Sequence[Page], chunk: Chunk) -> tuple[int, int]:
    """Numbers of the first and last page that a chunk touches; 1 where a document has no pages."""
    touched = [page.number for page in pages if page.start < chunk.end and chunk.start < page.end]
    return (touched[0], touched[-1]) if touched else (1, 1)


def _other_embedder(recorded: tuple[str, int], given: tuple[str, int]) -> StoreError:
    return StoreError(
        f"the collection's vectors were made by {recorded[0]!r} ({recorded[1]} dimensions), not by {given[0]!r} "
        f"({given[1]} dimensions): use the former, or make every vector anew with "
        "`sync(folder, rebuild=True)` or `modelworks index FOLDER --rebuild`"
    )
