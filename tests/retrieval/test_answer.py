"""From a question to cited sentences or a refusal, with a reader that the tests control."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from modelworks.core.errors import StoreError
from modelworks.retrieval import answer as answers
from modelworks.retrieval.answer import REFUSAL, Answer, Citation, ask, content_words, stream
from modelworks.retrieval.collection import Collection
from modelworks.retrieval.evidence import Calibration, Reading

CALIBRATION = Calibration(margin=1.0, cosine=0.0, coverage=0.0, context=0.0, bias=0.0, threshold=0.5)

GUIDE = """# Guide

## Removal

A document is removed with the remove command. Its vectors go at once.

## Steps

To install the tool, run these commands:

    make setup
    make demo

## Size

The index takes two kilobytes a passage.
"""


class WordEmbedder:
    """A bag of hashed words: equal words, near vectors."""

    id = "words@1"
    dimension = 64
    max_tokens = 128

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 2

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts):
            for word in content_words(text):
                row[sum(word.encode()) % self.dimension] += 1
            row /= max(1e-6, float(np.linalg.norm(row)))
        return rows


class KeywordReader:
    """Finds a keyword: its sentence has margin 5, every other one -5."""

    calibration = CALIBRATION

    def __init__(self, *keywords: str) -> None:
        self.keywords = keywords

    def read(
        self,
        question: str,
        passages: Sequence[str],
        sentences: Sequence[Sequence[tuple[int, int]]],
        headings: Sequence[str] = (),
    ) -> list[list[Reading]]:
        return [[self._reading(passage, *span) for span in spans] for passage, spans in zip(passages, sentences)]

    def _reading(self, passage: str, start: int, end: int) -> Reading:
        for keyword in self.keywords:
            at = passage.find(keyword, start, end)
            if at >= 0:
                return Reading(at, at + len(keyword), 5.0)
        return Reading(start, end, -5.0)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "guide.md").write_text(GUIDE, encoding="utf-8")
    (folder / "copy.md").write_text("# Copy\n\nIts vectors go at once.\n", encoding="utf-8")
    (folder / "astral.txt").write_text("Ẽ𝔸🙂 ﬁrst.\n\nThe oﬃce 🏢 is on Tower Street. Visit it.\n", encoding="utf-8")
    with Collection(tmp_path / "store", WordEmbedder()) as made:
        made.sync(folder)
        yield made


def test_answers_with_the_sentence_and_its_place(collection: Collection):
    answer = ask(collection, "How is a document removed?", reader=KeywordReader("remove command"))
    [citation] = answer.citations
    assert not answer.refused
    assert answer.answer == "A document is removed with the remove command. [1]"
    assert (citation.file, citation.page, citation.marker) == ("guide.md", 1, 1)
    assert citation.quote == "A document is removed with the remove command."
    assert GUIDE[citation.start : citation.end] == citation.quote
    assert GUIDE[citation.answer_start : citation.answer_end] == "remove command"


def test_refuses_with_the_nearest_passages(collection: Collection):
    answer = ask(collection, "Who painted the removal of a document?", reader=KeywordReader("nowhere in there"))
    assert (answer.refused, answer.answer, answer.citations) == (True, REFUSAL, ())
    assert answer.passages
    assert all(passage.probability < CALIBRATION.threshold for passage in answer.passages)


def test_refuses_when_nothing_is_found(tmp_path: Path):
    with Collection(tmp_path / "store", WordEmbedder()) as empty:
        answer = ask(empty, "What is there?", reader=KeywordReader("a"))
    assert answer.refused
    assert answer.passages == ()


def test_quotes_are_exact_in_text_outside_the_basic_plane(collection: Collection):
    answer = ask(collection, "Where is the office?", reader=KeywordReader("Tower Street"))
    [citation] = answer.citations
    text = collection.document_text("astral.txt")
    assert text[citation.start : citation.end] == citation.quote == "The oﬃce 🏢 is on Tower Street."
    assert text[citation.answer_start : citation.answer_end] == "Tower Street"


def test_sentence_that_introduces_code_brings_it_along(collection: Collection):
    answer = ask(collection, "How do I install the tool?", reader=KeywordReader("run these"))
    [citation] = answer.citations
    assert "make setup" in citation.quote
    assert "make demo" in citation.quote
    assert citation.quote in GUIDE


def test_every_sentence_has_its_marker_and_none_is_said_twice(collection: Collection):
    reader = KeywordReader("remove command", "vectors go", "two kilobytes")
    answer = ask(collection, "removed document vectors index passage", reader=reader, max_sentences=5)
    assert len(answer.citations) == 3  # copy.md says one of them again
    for citation in answer.citations:
        assert f"{citation.quote} [{citation.marker}]" in answer.answer
        assert collection.document_text(citation.file)[citation.start : citation.end] == citation.quote
    assert [citation.marker for citation in answer.citations] == [1, 2, 3]


def test_a_sentence_goes_on_over_the_line_ends_of_markdown(tmp_path: Path):
    """ "PDFs cannot be read" is an exact quotation of this page, and false."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "limits.md").write_text("# Limits\n\nScanned\nPDFs cannot be read by this long-winded tool.\n")
    with Collection(tmp_path / "store", WordEmbedder()) as made:
        made.sync(tmp_path / "docs")
        [citation] = ask(made, "Which PDFs cannot be read?", reader=KeywordReader("PDFs")).citations
    assert citation.quote == "Scanned\nPDFs cannot be read by this long-winded tool."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.html", "<h1>Removal</h1><h2>Removal by hand</h2><p>Use the command.</p>"),
        ("page.rst", "Removal\n=======\n\nRemoval by hand\n---------------\n\nUse the command.\n"),
        ("page.md", "Removal\n=======\n\nRemoval by hand\n---------------\n\nUse the command.\n"),
    ],
)
def test_headings_of_every_format_are_no_statements(tmp_path: Path, name: str, text: str):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / name).write_text(text)
    with Collection(tmp_path / "store", WordEmbedder()) as made:
        made.sync(tmp_path / "docs")
        [hit] = made.search("removal by hand")
    assert [hit.text[start - hit.start : end - hit.start] for start, end in hit.statements] == ["Use the command."]


def test_headings_are_never_the_answer(collection: Collection):
    hits = collection.search("Removal of a document", k=5)
    judged = answers.judge("Removal", hits, KeywordReader("Removal"), collection.embedder)
    quoted = {row.hit.text[row.start : row.end] for row in judged}
    assert "A document is removed with the remove command." in quoted
    assert not any(text.startswith("#") for text in quoted)


class GradedReader(KeywordReader):
    """The first keyword is found with margin 5, each further one with 3 less."""

    def _reading(self, passage: str, start: int, end: int) -> Reading:
        for rank, keyword in enumerate(self.keywords):
            at = passage.find(keyword, start, end)
            if at >= 0:
                return Reading(at, at + len(keyword), 5.0 - 3 * rank)
        return Reading(start, end, -5.0)


def test_a_further_sentence_must_be_nearly_as_likely(collection: Collection):
    reader = GradedReader("remove command", "vectors go", "two kilobytes")
    answer = ask(collection, "removed document vectors index passage", reader=reader, threshold=0.1)
    # Probabilities are .993, .881 and .269: the third is above the threshold, but far from the first.
    assert len(answer.citations) == 2


def test_sentences_are_limited(collection: Collection):
    reader = KeywordReader("remove command", "vectors go", "two kilobytes")
    answer = ask(collection, "removed document vectors index passage", reader=reader, max_sentences=1)
    assert len(answer.citations) == 1


def test_stream_gives_citations_before_the_whole(collection: Collection):
    *first, last = stream(collection, "How is a document removed?", reader=KeywordReader("remove command"))
    assert all(isinstance(found, Citation) for found in first)
    assert isinstance(last, Answer)
    assert tuple(first) == last.citations


def test_threshold_is_the_users_if_given(collection: Collection):
    reader = KeywordReader("remove command")
    assert ask(collection, "document removed", reader=reader, threshold=0.9999).refused
    assert not ask(collection, "document removed", reader=KeywordReader("zzz"), threshold=0.0).refused


def test_filter_reaches_the_search(collection: Collection):
    answer = ask(collection, "vectors go at once", reader=KeywordReader("vectors go"), where={"document": "copy.md"})
    assert [citation.file for citation in answer.citations] == ["copy.md"]


def test_removed_document_is_not_cited(collection: Collection):
    reader = KeywordReader("Tower Street")
    assert not ask(collection, "Where is the office?", reader=reader).refused
    collection.remove("astral.txt")
    answer = ask(collection, "Where is the office?", reader=reader)
    assert answer.refused
    assert all(passage.file != "astral.txt" for passage in answer.passages)


def test_empty_question(collection: Collection):
    with pytest.raises(ValueError, match="empty"):
        ask(collection, " \n", reader=KeywordReader("a"))


def test_damage_is_told_instead_of_misquoted(collection: Collection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collection, "document_text", lambda name: "x" * 10_000)
    with pytest.raises(StoreError, match="disagree"):
        ask(collection, "How is a document removed?", reader=KeywordReader("remove command"))


def test_probabilities_follow_the_margin(collection: Collection):
    hits = collection.search("How is a document removed?", k=3)
    judged = answers.judge("How is a document removed?", hits, KeywordReader("remove command"), collection.embedder)
    best = max(judged, key=lambda row: row.probability)
    assert best.probability == pytest.approx(1 / (1 + math.exp(-5)))
    assert best.hit.text[best.start : best.end] == "A document is removed with the remove command."


def test_json_has_the_promised_fields(collection: Collection):
    data = ask(collection, "How is a document removed?", reader=KeywordReader("remove command")).to_json()
    assert {"question", "answer", "refused", "citations", "passages", "timings"} <= data.keys()
    assert {"marker", "file", "page", "start", "end", "quote"} <= data["citations"][0].keys()
    assert {"file", "score", "text"} <= data["passages"][0].keys()
    assert {"search", "read", "total"} == data["timings"].keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is the capital of Poland?", {"capita", "poland"}),
        ("Ｃａｆé", {"café"}),
        ("東京は首都", {"東", "京", "は", "首", "都"}),
        ("the of and", set()),
    ],
)
def test_content_words(text: str, words: set[str]):
    assert content_words(text) == words
