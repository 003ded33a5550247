from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.core.errors import ConfigError
from modelworks.data.document import Document, Page
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.store import FileState, Store
from modelworks.retrieval.where import compile_where

NAMES = ["a.md", "b/a.md", "b/c[1].md", "b/d.txt"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "collection")
    for name in NAMES:
        pages = (Page(1, 0, 5), Page(2, 5, 10), Page(3, 10, 15))
        kind = "text/markdown" if name.endswith("md") else "text/plain"
        document = Document("one  two  three", pages, (), kind)
        chunks = [Chunk(0, 8, "one two", "Start > One"), Chunk(10, 15, "three", "Start > Two")]
        store.put_document(name, "/root", FileState(name.encode(), 15, None), document, chunks)
    return store


def matching(store: Store, where: dict[str, object]) -> list[tuple[str, int]]:
    compiled = compile_where(where)
    assert compiled is not None
    return store.rows(
        f"SELECT name, ordinal FROM documents JOIN chunks ON document_id = documents.id WHERE {compiled.sql} "
        "ORDER BY name, ordinal",
        compiled.parameters,
    )


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ({"document": "a.md"}, ["a.md"]),
        ({"document": "b/*"}, ["b/a.md", "b/c[1].md", "b/d.txt"]),
        ({"document": "b/c[1].md"}, ["b/c[1].md"]),
        ({"document": "b/c[1].*"}, ["b/c[1].md"]),
        ({"document": "b/?.*"}, ["b/a.md", "b/d.txt"]),
        ({"document": ["a.md", "b/d.txt"]}, ["a.md", "b/d.txt"]),
        ({"document": []}, []),
        ({"document": "*", "media_type": "text/plain"}, ["b/d.txt"]),
        ({"document": "' OR 1 --"}, []),
    ],
)
def test_documents_are_chosen_by_name_pattern_and_type(
    store: Store, where: dict[str, object], names: list[str]
) -> None:
    assert list(dict.fromkeys(name for name, _ in matching(store, where))) == names


def test_pages_and_headings_choose_chunks(store: Store) -> None:
    assert matching(store, {"document": "a.md", "page": 2}) == [("a.md", 0)]  # it spans pages 1 and 2
    assert matching(store, {"document": "a.md", "page": [1, 3]}) == [("a.md", 0), ("a.md", 1)]
    assert matching(store, {"document": "a.md", "heading": "*Two"}) == [("a.md", 1)]


def test_nothing_to_filter_is_no_filter() -> None:
    assert compile_where(None) is None
    assert compile_where({}) is None


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"file": "x"}, "unknown key 'file'; known keys are document, media_type, heading, page"),
        ({"page": "3"}, "'page' wants a page number, not '3'"),
        ({"page": True}, "'page' wants a page number"),
        ({"page": 2**70}, "'page' wants a page number"),
        ({"document": 3}, "'document' wants a string, not 3"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_an_error(where: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        compile_where(where)
