from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from indexer import WordEmbedder

import modelworks
from modelworks.core.errors import ConfigError, StoreError
from modelworks.retrieval.collection import Collection, Mode

MODES: tuple[Mode, ...] = ("fused", "lexical", "dense")


@pytest.fixture
def filled(collection: Collection, folder: Path) -> Collection:
    collection.sync(folder)
    return collection


def test_it_is_the_packages_public_name() -> None:
    assert modelworks.Collection is Collection


@pytest.mark.parametrize("mode", MODES)
def test_hits_are_exact_spans_best_first(filled: Collection, mode: Mode) -> None:
    hits = filled.search("Which dog barks at a postman?", mode=mode)
    assert hits[0].document == "animals/dogs.md"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        assert filled.document_text(hit.document)[hit.start : hit.end] == hit.text
        assert hit.id.startswith(f"{hit.document}#")
        assert (hit.page, hit.last_page) == (1, 1)
    assert hits.coverage == 1


def test_hits_carry_the_scores_they_come_from(filled: Collection) -> None:
    query = "a dog barks"
    [word] = filled.search(query, k=1, mode="lexical")
    [meaning] = filled.search(query, k=1, mode="dense")
    [fused] = filled.search(query, k=1)
    assert (word.lexical, word.dense) == (word.score, None)
    assert (meaning.lexical, meaning.dense) == (None, meaning.score)
    assert (fused.lexical, fused.dense) == (word.score, pytest.approx(meaning.score))
    assert fused.score == pytest.approx(0.3 + 0.7 * meaning.score)


def test_fusion_finds_what_either_search_finds(filled: Collection, folder: Path, embedder: WordEmbedder) -> None:
    names = {mode: {hit.document for hit in filled.search("postman", mode=mode)} for mode in MODES}
    assert names["lexical"] | names["dense"] == names["fused"]


# Fault 5 (ragflow#9883): deleted text still cited.
@pytest.mark.parametrize("exact_limit", [100, 1])
@pytest.mark.parametrize("way", ["remove", "delete the file"])
def test_deleted_text_is_found_nowhere(
    tmp_path: Path, folder: Path, embedder: WordEmbedder, exact_limit: int, way: str
) -> None:
    path = tmp_path / "collection"
    with (
        Collection(path, embedder, exact_limit=exact_limit) as collection,
        Collection(path, embedder, exact_limit=exact_limit) as other,
    ):
        collection.sync(folder)
        for mode in MODES:  # fill whatever caches there are, in both
            assert collection.search("diesel engine", mode=mode)[0].document == "engines.txt"
            assert other.search("diesel engine", mode=mode)[0].document == "engines.txt"
        if way == "remove":
            collection.remove("engines.txt")
        else:
            (folder / "engines.txt").unlink()
            collection.sync(folder)
        with Collection(path, embedder, exact_limit=exact_limit) as restarted:
            for place in (collection, other, restarted):
                for mode in MODES:
                    hits = place.search("diesel engine", mode=mode)
                    assert "engines.txt" not in [hit.document for hit in hits]
                    assert not [hit for hit in hits if "diesel" in hit.text]
                assert "engines.txt" not in [document.name for document in place.documents()]
                with pytest.raises(StoreError, match="not in the collection"):
                    place.document_text("engines.txt")
            assert restarted.doctor().ok
            embedded = restarted._store.value("SELECT count(*) FROM embeddings")
            assert embedded == restarted._store.value("SELECT count(*) FROM chunks") == 2


# Fault 7 (open-webui#11279).
@pytest.mark.parametrize("dimension", [96, 48])
def test_another_model_is_named_with_the_way_out(filled: Collection, folder: Path, dimension: int) -> None:
    before = filled.fingerprint()
    with Collection(filled.path, WordEmbedder("other model", dimension)) as wrong:
        for use in (lambda: wrong.search("dog"), lambda: wrong.search("dog", mode="dense"), lambda: wrong.sync(folder)):
            with pytest.raises(StoreError) as error:
                use()
            assert "'words' (96 dimensions)" in str(error.value)
            assert f"'other model' ({dimension} dimensions)" in str(error.value)
            assert "modelworks index FOLDER --rebuild" in str(error.value)
        assert wrong.search("dog", mode="lexical")  # words need no model
        assert filled.fingerprint() == before
        assert wrong.sync(folder, rebuild=True).embedded == 3
        assert wrong.search("postman", mode="dense")[0].document == "animals/dogs.md"
    with pytest.raises(StoreError, match="use the former"):
        filled.search("dog")


def test_rebuilding_gives_the_same_collection(filled: Collection, folder: Path, embedder: WordEmbedder) -> None:
    filled.remove("engines.txt")
    before = filled.fingerprint()
    embedder.embedded.clear()
    report = filled.sync(folder, rebuild=True)
    assert report.counts == {"updated": 2, "excluded": 1}
    assert len(embedder.embedded) == 2
    assert filled.fingerprint() == before


def test_a_collection_remembers_its_model(tmp_path: Path, folder: Path) -> None:
    class Named(WordEmbedder):
        ref = "hf:some/model"

    with Collection(tmp_path / "collection", Named()) as collection:
        collection.sync(folder)
    with Collection(tmp_path / "collection") as reopened:
        assert getattr(reopened.embedder, "ref", None) == "hf:some/model"


# Fault 8 (txtai#915).
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("exact_limit", [1000, 10])
def test_one_matching_row_among_a_hundred_is_found(
    tmp_path: Path, embedder: WordEmbedder, mode: Mode, exact_limit: int
) -> None:
    docs = tmp_path / "docs"
    (docs / "rare").mkdir(parents=True)
    for i in range(100):
        (docs / f"{i}.txt").write_text(f"A kettle boils water, kettle number {i}.")
    (docs / "rare/one.txt").write_text("Somewhere among many other words there also is a kettle.")
    with Collection(tmp_path / "collection", embedder, exact_limit=exact_limit) as collection:
        collection.sync(docs)
        assert "rare/one.txt" not in [hit.document for hit in collection.search("kettle boils water", k=5, mode=mode)]
        hits = collection.search("kettle boils water", k=5, mode=mode, where={"document": "rare/*"})
        assert [hit.document for hit in hits] == ["rare/one.txt"]


def test_partial_vectors_are_used_and_said_to_be_partial(filled: Collection, folder: Path) -> None:
    (folder / "tractors.txt").write_text("A tractor has a diesel engine too.")
    filled.sync(folder, embed=False)
    fused = filled.search("diesel engine")
    assert fused.coverage == pytest.approx(3 / 4)
    assert {hit.document for hit in fused[:2]} == {"engines.txt", "tractors.txt"}
    assert next(hit for hit in fused if hit.document == "tractors.txt").dense is None
    dense = filled.search("diesel engine", mode="dense")
    assert dense.coverage == pytest.approx(3 / 4)
    assert "tractors.txt" not in [hit.document for hit in dense]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", ["", "  \n", "?!", "\x00", "\ud800", "x" * 100_000])
def test_a_query_without_words_is_no_error(filled: Collection, mode: Mode, query: str) -> None:
    filled.search(query, mode=mode)


def test_an_empty_collection_finds_nothing(collection: Collection) -> None:
    for mode in MODES:
        hits = collection.search("anything", mode=mode)
        assert hits == []
        assert hits.coverage == 1
    assert collection.documents() == []
    assert collection.doctor().ok


def test_wrong_arguments_are_named(filled: Collection, folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown mode 'hybrid'; modes are fused, lexical, dense"):
        filled.search("x", mode="hybrid")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        filled.search("x", k=0)
    with pytest.raises(ConfigError, match="unknown key 'file'"):
        filled.search("x", where={"file": "y"})
    with pytest.raises(ConfigError, match="unknown chunking 'random'; there are structure"):
        filled.sync(folder, chunking="random")
    with pytest.raises(StoreError, match="'nothing' is not in the collection"):
        filled.remove("nothing")


def test_pages_are_looked_up_by_offset(tmp_path: Path, collection: Collection, folder: Path) -> None:
    collection.sync(folder)
    document = collection.document("animals/cats.md")
    assert document.title == "Cats"
    assert collection.page_of("animals/cats.md", len(document.text) - 1) == 1


def test_equal_scores_come_in_the_order_of_names(tmp_path: Path, embedder: WordEmbedder) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("b", "d", "a", "c"):
        (docs / f"{name}.txt").write_text("the very same words")
    with Collection(tmp_path / "collection", embedder) as collection:
        collection.sync(docs)
        for mode in MODES:
            assert [hit.document for hit in collection.search("same words", mode=mode)] == [
                "a.txt",
                "b.txt",
                "c.txt",
                "d.txt",
            ]


def test_searching_while_another_thread_syncs(collection: Collection, folder: Path) -> None:
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"Kettle number {i} boils.")
    thread = threading.Thread(target=collection.sync, args=(folder,))
    thread.start()
    while thread.is_alive():
        for hit in collection.search("kettle boils"):
            assert collection.document_text(hit.document)[hit.start : hit.end] == hit.text
    thread.join()
    assert len(collection.search("kettle boils", k=100)) >= 60


def test_word_search_imports_no_torch_and_no_lancedb(filled: Collection) -> None:
    script = f"""
import sys
from modelworks import Collection
with Collection({str(filled.path)!r}) as collection:
    assert collection.search("diesel", mode="lexical")[0].document == "engines.txt"
assert not {{"torch", "lancedb", "tokenizers", "transformers"}} & set(sys.modules), "too much is imported"
"""
    subprocess.run([sys.executable, "-c", script], check=True)
