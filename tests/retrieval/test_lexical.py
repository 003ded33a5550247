from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.data.document import Document, Page
from modelworks.retrieval import lexical
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.store import FileState, Store
from modelworks.retrieval.where import compile_where
from modelworks.text.words import index_form


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "collection")


def put(store: Store, name: str, text: str, title: str = "", heading: str = "") -> None:
    document = Document(text, (Page(1, 0, len(text)),), (), "text/plain", title)
    store.put_document(
        name, "/root", FileState(name.encode(), len(text), None), document, [Chunk(0, len(text), text, heading)]
    )


def found(store: Store, query: str, where: dict[str, object] | None = None) -> list[str]:
    ids = [chunk for chunk, _ in lexical.search(store, query, 100, compile_where(where))]
    chunks = store.chunks(ids)
    return [chunks[i].document for i in ids]


def test_words_match_by_stem_whatever_the_case_and_diacritics(store: Store) -> None:
    put(store, "a", "The cafés were indexing documents")
    assert found(store, "CAFE index document") == ["a"]


def test_rarer_words_rank_higher(store: Store) -> None:
    for i in range(20):
        put(store, f"common{i}", f"install the package number {i}")
    put(store, "rare", "install the package with zstandard")
    assert found(store, "install zstandard")[0] == "rare"


def test_title_and_heading_count_too(store: Store) -> None:
    put(store, "a", "Steps follow below.", title="Calibrating the spectrometer")
    put(store, "b", "Other steps follow.", heading="Guide > Voltmeters")
    assert found(store, "spectrometer") == ["a"]
    assert found(store, "voltmeter") == ["b"]


def test_full_width_and_ligature_queries_are_normalised(store: Store) -> None:
    put(store, "a", "office")
    assert found(store, "oﬃce") == ["a"]
    assert found(store, "ＯＦＦＩＣＥ") == ["a"]


def test_stop_words_are_dropped_only_beside_other_words(store: Store) -> None:
    put(store, "a", "to be or not to be")
    put(store, "b", "a kettle")
    assert found(store, "what is the kettle") == ["b"]
    assert found(store, "to be or not to be") == ["a"]


# Fault 12 (llama_index#821): CJK gives no hits; "hits" with score 0.
@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("今日は天気がいいので散歩します。", "天気"),
        ("机器学习模型需要大量数据", "学习模型"),
        ("대한민국의 수도는 서울이다", "서울"),
        ("今日は猫がいる", "猫"),
        ("Python入門の本", "python"),
        ("Python入門の本", "入門"),
        ("ｶﾀｶﾅ", "カタカナ"),
        ("ภาษาไทยง่ายมาก", "ไทย"),
    ],
)
def test_text_without_spaces_is_found_by_its_parts(store: Store, text: str, query: str) -> None:
    put(store, "noise", "something else entirely")
    put(store, "a", index_form(text))
    assert found(store, query) == ["a"]


def test_only_chunks_that_share_a_word_are_hits_and_scores_are_positive(store: Store) -> None:
    put(store, "a", "red apple")
    put(store, "b", "green pear")
    for query in ("apple", "red apple pear"):
        assert all(score > 0 for _, score in lexical.search(store, query, 10))
    assert found(store, "apple") == ["a"]
    assert found(store, "plum") == []
    # A word of every chunk weighs next to nothing, but finds them.
    put(store, "c", "green apple")
    put(store, "d", "apple")
    assert set(found(store, "apple")) == {"a", "c", "d"}


# Fault 8 (txtai#915): a filter after the cut returns too few.
def test_one_matching_row_among_a_hundred_is_found(store: Store) -> None:
    for i in range(100):
        put(store, f"other/{i}", "kettle kettle kettle")
    put(store, "wanted", "a kettle among many other words that make it rank last of all")
    ids = lexical.search(store, "kettle", 1, compile_where({"document": "wanted"}))
    assert [store.chunks([chunk])[chunk].document for chunk, _ in ids] == ["wanted"]


def test_the_filter_changes_no_score(store: Store) -> None:
    for i in range(10):
        put(store, f"{i}", f"kettle {'word ' * i}")
    everywhere = dict(lexical.search(store, "kettle word", 100))
    filtered = dict(lexical.search(store, "kettle word", 100, compile_where({"document": ["3", "4"]})))
    assert len(filtered) == 2
    assert filtered == pytest.approx({chunk: everywhere[chunk] for chunk in filtered})


@pytest.mark.parametrize(
    "query",
    ["", "   ", '"', "AND", "a AND OR NOT b", "NEAR(a b)", "col:x", "x*", "-x", "(", "\x00", "'; DROP TABLE", "^a"],
)
def test_query_syntax_is_text(store: Store, query: str) -> None:
    put(store, "a", "plain words")
    found(store, query)
    assert found(store, f"{query} plain") == ["a"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_is_a_query(store: Store, query: str) -> None:
    lexical.search(store, query, 5)
    lexical.search(store, query, 5, compile_where({"page": 1}))
