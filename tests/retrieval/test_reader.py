"""The reader: spans, masks, batches, and the file that ships."""

from __future__ import annotations

import math

import gguf
import pytest
import torch

from modelworks.core.errors import ModelFileError
from modelworks.retrieval.evidence import Reading
from modelworks.retrieval.reader import MAX_ANSWER_TOKENS, Reader, best_span, default_reader
from modelworks.retrieval.sentence import sentences

PASSAGE = (
    "Warsaw is the capital of Poland. It stands on the Vistula River in east-central Poland. "
    "Its population is estimated at 1.740 million residents."
)


def test_best_span_is_the_pair_with_the_highest_sum():
    start, end = torch.tensor([5.0, 0.0, 0.0]), torch.tensor([0.0, 4.0, 1.0])
    assert best_span(start, end) == (9.0, 0, 1)


def test_best_span_does_not_end_before_it_starts():
    start, end = torch.tensor([0.0, 5.0]), torch.tensor([7.0, 1.0])
    assert best_span(start, end) == (7.0, 0, 0)


def test_best_span_is_never_longer_than_the_limit():
    length = MAX_ANSWER_TOKENS + 10
    start, end = torch.zeros(length), torch.zeros(length)
    start[0] = end[length - 1] = 10.0
    _, first, last = best_span(start, end)
    assert last - first < MAX_ANSWER_TOKENS


def read(reader: Reader, question: str, passage: str, headings: tuple[str, ...] = ()) -> list[Reading]:
    [readings] = reader.read(question, [passage], [sentences(passage)], headings)
    return readings


@pytest.fixture(scope="module")
def reader() -> Reader:
    return default_reader()


def test_the_sentence_that_answers_has_the_highest_margin(reader: Reader):
    readings = read(reader, "How many people live in Warsaw?", PASSAGE)
    best = max(readings, key=lambda reading: reading.margin)
    assert best is readings[2]
    assert "1.740 million" in PASSAGE[best.start : best.end]


def test_spans_stay_in_their_sentence(reader: Reader):
    for (start, end), reading in zip(sentences(PASSAGE), read(reader, "What is the capital?", PASSAGE), strict=True):
        assert start <= reading.start < reading.end <= end


def test_a_passage_is_read_alike_alone_and_in_a_batch(reader: Reader):
    passages = [PASSAGE, "Short.", PASSAGE * 6, "Krakow was the capital before."]
    question = "What is the capital of Poland?"
    together = reader.read(question, passages, [sentences(passage) for passage in passages])
    for passage, readings in zip(passages, together, strict=True):
        for alone, reading in zip(read(reader, question, passage), readings, strict=True):
            assert (alone.start, alone.end) == (reading.start, reading.end)
            assert alone.margin == pytest.approx(reading.margin, abs=1e-3)


def test_headings_give_context_but_no_answer(reader: Reader):
    with_heading = read(reader, "Which city is described?", PASSAGE, ("Warsaw > Geography\n",))
    assert all(0 <= reading.start < reading.end <= len(PASSAGE) for reading in with_heading)
    assert [r.margin for r in with_heading] != [r.margin for r in read(reader, "Which city is described?", PASSAGE)]


def test_long_questions_and_passages_are_cut_not_refused(reader: Reader):
    readings = read(reader, "What is the capital of Poland? " * 100, PASSAGE * 50)
    assert math.isfinite(readings[0].margin)
    assert readings[-1].margin == -math.inf  # beyond what is read


def test_empty_input(reader: Reader):
    assert reader.read("What?", [], []) == []
    assert reader.read("What?", [""], [[]]) == [[]]


def test_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(str(path), "modelworks-reader")
    writer.add_string("modelworks.calibration", "{}")
    writer.add_tensor("blk.0.attn_q.weight", torch.zeros(4, 4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="not a reader"):
        Reader.from_file(path)
