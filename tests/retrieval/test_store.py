from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelworks.core.errors import StoreError
from modelworks.data.document import Document, Page
from modelworks.retrieval import lexical
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.store import ChunkDelta, FileState, NameTakenError, Store, text_hash


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "collection")


def state(name: str) -> FileState:
    return FileState(name.encode(), len(name), 1)


def put(store: Store, name: str, *texts: str, root: str = "/root") -> ChunkDelta:
    """A document of one page and one chunk a text."""
    text, pages, chunks = "", [], []
    for number, part in enumerate(texts, 1):
        pages.append(Page(number, len(text), len(text) + len(part), f"p{number}"))
        chunks.append(Chunk(len(text), len(text) + len(part), part, heading=f"Part {number}"))
        text += part + "\n"
    return store.put_document(name, root, state(name), Document(text, tuple(pages), (), "text/plain", "T"), chunks)


def embed_all(store: Store, embedder_id: str = "fake", dimension: int = 4) -> int:
    store.bind_embedder(embedder_id, dimension)
    pending = store.pending(1000)
    store.put_vectors(embedder_id, [(key, np.full(dimension, 0.5, np.float32)) for _, key, _ in pending])
    return len(pending)


def found(store: Store, query: str) -> list[str]:
    return [chunk.document for chunk in store.chunks(i for i, _ in lexical.search(store, query, 10)).values()]


def test_a_document_comes_back_as_it_went_in(store: Store) -> None:
    put(store, "a/ä.md", "Füße", "日本\x00語 🎉")
    document = store.document("a/ä.md")
    assert document.text == "Füße\n日本\x00語 🎉\n"
    assert document.pages == (Page(1, 0, 4, "p1"), Page(2, 5, 11, "p2"))
    [info] = store.documents()
    assert (info.name, info.status, info.pages, info.chunks, info.embedded) == ("a/ä.md", "ok", 2, 2, 0)
    first, second = store.chunks([1, 2, 99]).values()
    assert (first.heading, first.first_page, first.last_page) == ("Part 1", 1, 1)
    assert document.text[second.start : second.end] == "日本\x00語 🎉"


def test_a_chunk_over_a_page_border_has_both_pages(store: Store) -> None:
    document = Document("one\ntwo\nthree", (Page(1, 0, 3), Page(2, 4, 7), Page(3, 8, 13)), (), "application/pdf")
    store.put_document("a", "/root", state("a"), document, [Chunk(0, 6, "one two"), Chunk(4, 7, "two")])
    assert [(c.first_page, c.last_page) for c in store.chunks([1, 2]).values()] == [(1, 2), (2, 2)]


# Fault 4 (llama_index#13461): a second run grows the store.
def test_putting_a_document_again_changes_nothing(store: Store) -> None:
    assert put(store, "a", "one", "two") == ChunkDelta(added=2, removed=0, kept=0)
    embed_all(store)
    before = store.fingerprint()
    assert put(store, "a", "one", "two") == ChunkDelta(added=0, removed=0, kept=2)
    assert store.fingerprint() == before
    assert store.value("SELECT count(*) FROM chunks_fts") == 2


# Fault 6 (langchain#28447, #32612): clean-up misses stale chunks or re-embeds all.
def test_removing_one_of_three_chunks_deletes_one_and_embeds_none(store: Store) -> None:
    put(store, "a", "one apple", "two pears", "three plums")
    assert embed_all(store) == 3
    assert put(store, "a", "one apple", "three plums") == ChunkDelta(added=0, removed=1, kept=2)
    assert store.pending(10) == []
    assert store.drop_orphans() == 1
    assert store.vector_counts() == (2, 2)
    assert found(store, "pears") == []


def test_editing_one_chunk_embeds_one(store: Store) -> None:
    put(store, "a", "one", "two", "three")
    embed_all(store)
    assert put(store, "a", "one", "TWO", "three") == ChunkDelta(added=1, removed=1, kept=2)
    assert [text for _, _, text in store.pending(10)] == ["TWO"]


def test_equal_texts_share_a_vector_and_it_stays_while_one_needs_it(store: Store) -> None:
    put(store, "a", "same", "same")
    put(store, "b", "same")
    assert embed_all(store) == 3  # three chunks are pending, one text
    assert store.value("SELECT count(*) FROM embeddings") == 1
    assert store.vector_counts() == (3, 3)
    store.forget("a")
    assert store.vector_counts() == (1, 1)
    store.forget("b")
    assert store.value("SELECT count(*) FROM embeddings") == 0


def test_pending_goes_in_steps_and_meets_each_chunk_once(store: Store) -> None:
    put(store, "a", *(f"text {i}" for i in range(10)))
    store.bind_embedder("fake", 4)
    store.put_vectors("fake", [(text_hash("text 3"), np.ones(4, np.float32))])
    seen, last = [], 0
    while step := store.pending(4, after=last):
        last = step[-1][0]
        seen += [text for _, _, text in step]
    assert seen == [f"text {i}" for i in range(10) if i != 3]
    assert store.count_pending() == 9


def test_vectors_of_deleted_text_are_not_written(store: Store) -> None:
    put(store, "a", "one")
    pending = store.pending(10)
    store.bind_embedder("fake", 4)
    store.forget("a")
    store.put_vectors("fake", [(key, np.ones(4, np.float32)) for _, key, _ in pending])
    assert store.value("SELECT count(*) FROM embeddings") == 0


# Fault 7 (open-webui#11279): the error names both models and the fix; equal dimensions are no excuse.
@pytest.mark.parametrize("dimension", [4, 8])
def test_another_models_vectors_are_refused_by_name(store: Store, dimension: int) -> None:
    put(store, "a", "one")
    embed_all(store, "minilm@1", 4)
    with pytest.raises(StoreError) as error:
        store.bind_embedder("bge@2", dimension)
    message = str(error.value)
    assert "'minilm@1' (4 dimensions)" in message
    assert f"'bge@2' ({dimension} dimensions)" in message
    assert "modelworks index FOLDER --rebuild" in message
    assert store.vector_counts() == (1, 1)
    store.bind_embedder("bge@2", dimension, replace=True)
    assert store.vector_counts() == (0, 1)
    with pytest.raises(StoreError, match="rebuilt with another model"):  # a process that goes on with the old model
        store.put_vectors("minilm@1", [(text_hash("one"), np.ones(4, np.float32))])


def test_rename_keeps_everything(store: Store) -> None:
    put(store, "old", "one", "two")
    embed_all(store)
    assert store.rename("old", "new", state("old"))
    assert [d.name for d in store.documents()] == ["new"]
    assert store.vector_counts() == (2, 2)
    assert not store.rename("old", "other", state("old"))  # gone already
    put(store, "other", "three")
    assert not store.rename("new", "other", state("old"))  # taken
    assert not store.rename("new", "free", state("another content"))


def test_excluded_documents_leave_nothing_and_stay_out(store: Store) -> None:
    put(store, "a", "secret words")
    put(store, "b", "other words")
    embed_all(store)
    assert store.exclude("a") == 1
    assert found(store, "words") == ["b"]
    assert store.vector_counts() == (1, 1)
    assert not [path for path in store.folder.iterdir() if b"secret" in path.read_bytes()]
    assert put(store, "a", "secret words") == ChunkDelta(0, 0, 0)
    assert store.put_skipped("a", "/root", state("a"), "broken") == 0
    assert [d.name for d in store.documents()] == ["b"]
    assert [(d.name, d.status) for d in store.documents(excluded=True)] == [("a", "excluded")]
    with pytest.raises(StoreError, match="'a' is not in the collection"):
        store.exclude("a")
    store.restore("a")
    assert put(store, "a", "secret words").added == 1
    with pytest.raises(StoreError, match="nothing to restore"):
        store.restore("a")


def test_a_skipped_document_loses_its_text_but_says_why(store: Store) -> None:
    put(store, "a", "one", "two")
    assert store.put_skipped("a", "/root", state("a"), "broken: no pages") == 2
    [info] = store.documents()
    assert (info.status, info.reason, info.chunks) == ("skipped", "broken: no pages", 0)
    assert found(store, "one") == []
    with pytest.raises(StoreError, match="not in the collection"):
        store.document("a")


def test_a_name_of_another_folder_is_taken(store: Store) -> None:
    put(store, "a", "one", root="/first")
    with pytest.raises(NameTakenError, match="/first"):
        put(store, "a", "two", root="/second")
    assert store.document("a").text == "one\n"


def test_changed_chunking_makes_every_file_look_changed(store: Store) -> None:
    store.note_chunking("structure", 256)
    put(store, "a", "one")
    store.note_chunking("structure", 256)
    assert store.known_files("/root")["a"].state == state("a")
    store.note_chunking("structure", 512)
    assert store.known_files("/root")["a"].state == FileState(None, 1, None)
    assert store.chunking() == "structure"


def test_the_fingerprint_tells_content_not_history(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    put(one, "a", "x")
    put(one, "b", "y", "z")
    put(other, "gone", "q")
    put(other, "b", "y", "z")
    embed_all(other)
    put(other, "a", "x")
    other.forget("gone")
    assert one.fingerprint() != other.fingerprint()  # vectors are missing
    embed_all(one)
    embed_all(other)
    assert one.fingerprint() == other.fingerprint()
    put(other, "a", "x.")
    assert one.fingerprint() != other.fingerprint()
