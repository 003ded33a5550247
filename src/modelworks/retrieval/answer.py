"""From a question to cited sentences, or to a refusal.

Search brings passages, the reader finds the span of each that answers and how likely it does, and the sentences
around the likely spans become the answer, word for word. So every sentence has a source by construction; it is
checked once more against the stored document before it is given out.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from modelworks.core.errors import StoreError
from modelworks.retrieval.evidence import Evidence, Reading, Span
from modelworks.text.words import STOP_WORDS, index_form

if TYPE_CHECKING:
    from modelworks.retrieval.collection import Collection, Hit
    from modelworks.retrieval.embed import Embedder
    from modelworks.retrieval.reader import Reader

REFUSAL = "The documents do not answer this question."
MAX_SENTENCES = 3
_SHARE_OF_BEST = 0.8
"""A further sentence is given only where it is about as likely as the first."""
_MAX_CONTINUATION = 600  # characters of a list or code block that a sentence ending in ":" introduces


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a sentence of the answer stands: characters `start:end` of the document's text are exactly `quote`."""

    marker: int
    file: str
    page: int
    start: int
    end: int
    quote: str
    answer_start: int
    answer_end: int
    """The words within the quote that the reader took for the answer, also in characters of the document's text."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage near the question, for a person who wants to look further."""

    file: str
    page: int
    start: int
    end: int
    text: str
    score: float
    """Search's score: comparable within one answer only."""
    probability: float
    """How likely the reader holds it that this passage answers the question."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`answer` holds a marker such as [1] after every sentence; a refusal has no citation."""

    question: str
    answer: str
    refused: bool
    citations: tuple[Citation, ...]
    passages: tuple[Passage, ...]
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds: search, read, total."""

    def to_json(self) -> dict[str, Any]:
        """What `modelworks ask --json` prints."""
        return asdict(self) | {"timings": {name: round(seconds, 4) for name, seconds in self.timings.items()}}


def ask(collection: Collection, question: str, **options: Any) -> Answer:
    """Answer `question` from the collection's documents; the options are those of `stream`."""
    *_, answer = stream(collection, question, **options)
    assert isinstance(answer, Answer)
    return answer


def stream(
    collection: Collection,
    question: str,
    *,
    k: int = 8,
    where: Mapping[str, Any] | None = None,
    reader: Reader | None = None,
    threshold: float | None = None,
    max_sentences: int = MAX_SENTENCES,
) -> Iterator[Citation | Answer]:
    """Yield each citation as it is found, then the whole answer.

    k: passages that are read. where: filter of `Collection.search`. threshold: the probability below which a
    question is refused; the reader's own where None. Raises ValueError for an empty question.
    """
    if not question.strip():
        raise ValueError("the question is empty")
    began = time.perf_counter()
    hits = collection.search(question, k=k, where=where)
    searched = time.perf_counter()
    if not hits:
        timings = {"search": searched - began, "read": 0.0, "total": time.perf_counter() - began}
        yield Answer(question, REFUSAL, True, (), (), timings)
        return
    if reader is None:
        from modelworks.retrieval.reader import default_reader  # torch and the model load on the first question

        reader = default_reader()
    limit = reader.calibration.threshold if threshold is None else threshold
    judged = judge(question, hits, reader, collection.embedder)
    read = time.perf_counter()
    best: dict[str, float] = {}
    for row in judged:
        best[row.hit.id] = max(row.probability, best.get(row.hit.id, 0.0))
    passages = tuple(
        Passage(hit.document, hit.page, hit.start, hit.end, hit.text, hit.score, best.get(hit.id, 0.0)) for hit in hits
    )
    citations: list[Citation] = []
    ranked = sorted(judged, key=lambda row: -row.probability)
    enough = max(limit, _SHARE_OF_BEST * ranked[0].probability) if ranked else limit
    for row in ranked:
        if row.probability < enough or len(citations) == max_sentences:
            break
        citation = _cite(collection, row, len(citations) + 1)
        if not any(_same(citation, earlier) for earlier in citations):
            citations.append(citation)
            yield citation
    text = " ".join(f"{_flowing(citation.quote)} [{citation.marker}]" for citation in citations) or REFUSAL
    timings = {"search": searched - began, "read": read - searched, "total": time.perf_counter() - began}
    yield Answer(question, text, not citations, tuple(citations), passages, timings)


@dataclass(frozen=True, slots=True)
class Judged:
    """A sentence of a passage that search brought, and how likely it answers.

    `start:end` is the sentence, `reading` the words in it that answer; both count characters of `hit.text`.
    """

    hit: Hit
    start: int
    end: int
    reading: Reading
    evidence: Evidence
    probability: float


def judge(question: str, hits: Sequence[Hit], reader: Reader, embedder: Embedder) -> list[Judged]:
    """Weigh every sentence of every hit, in their order; headings say what follows, and answer nothing."""
    spans = [_statements(hit) for hit in hits]
    headings = [f"{hit.heading}\n" if hit.heading else "" for hit in hits]
    readings = _read(reader, question, hits, spans, headings)
    texts = [hit.text[start:end] for hit, places in zip(hits, spans) for start, end in places]
    question_C, *sentences_C = embedder.embed([index_form(text) for text in [question, *texts]])
    cosines = iter([float(question_C @ sentence_C) for sentence_C in sentences_C])
    asked = content_words(question)

    def share(text: str) -> float:
        return len(asked & content_words(text)) / max(1, len(asked))

    judged = []
    for hit, heading, places, found in zip(hits, headings, spans, readings):
        context = share(heading + hit.text)
        for (start, end), reading in zip(places, found):
            evidence = Evidence(reading.margin, next(cosines), share(hit.text[start:end]), context)
            judged.append(Judged(hit, start, end, reading, evidence, reader.calibration.probability(evidence)))
    return judged


def _read(
    reader: Reader, question: str, hits: Sequence[Hit], spans: Sequence[Sequence[Span]], headings: Sequence[str]
) -> list[list[Reading]]:
    """Read each hit from its first statement on: the headings before that are in its heading path."""
    skipped = [places[0][0] if places else 0 for places in spans]
    found = reader.read(
        question,
        [hit.text[skip:] for hit, skip in zip(hits, skipped)],
        [[(start - skip, end - skip) for start, end in places] for places, skip in zip(spans, skipped)],
        headings,
    )
    return [
        [Reading(each.start + skip, each.end + skip, each.margin) for each in row] for row, skip in zip(found, skipped)
    ]


def content_words(text: str) -> set[str]:
    """Lower-case words that carry meaning, cut to a rough stem of six letters (CJK: single characters)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+", folded)
    return {word[:6] for word in words if word not in STOP_WORDS}


def _statements(hit: Hit) -> list[Span]:
    """What can be cited of a hit, in characters of its text; a line that repeats a heading above it cannot."""
    headings = {_flowing(heading).casefold() for heading in hit.heading.split(" > ")}
    spans = [(start - hit.start, end - hit.start) for start, end in hit.statements]
    return [(start, end) for start, end in spans if _flowing(hit.text[start:end]).casefold() not in headings]


def _cite(collection: Collection, judged: Judged, marker: int) -> Citation:
    """The sentence, with the list or code block that it introduces, verified against the stored document."""
    hit, last = judged.hit, judged.end
    if hit.text[last - 1] == ":":
        following = [end - hit.start for start, end in hit.statements if start - hit.start >= last]
        last = max([end for end in following if end - judged.start <= _MAX_CONTINUATION], default=last)
    start, end = hit.start + judged.start, hit.start + last
    quote = collection.document_text(hit.document)[start:end]
    if quote != hit.text[judged.start : last]:
        raise StoreError(
            f"{hit.document}: the index and the stored text disagree at {start}-{end}; run `modelworks docs doctor`"
        )
    page = collection.page_of(hit.document, start)
    answer = hit.start + judged.reading.start, hit.start + judged.reading.end
    return Citation(marker, hit.document, page, start, end, quote, *answer)


def _same(one: Citation, other: Citation) -> bool:
    """Whether two citations overlap in one document or say the same words in two."""
    if one.file == other.file and one.start < other.end and other.start < one.end:
        return True
    return _flowing(one.quote).casefold() == _flowing(other.quote).casefold()


def _flowing(quote: str) -> str:
    """A quote as running text: line ends of a page become spaces."""
    return " ".join(quote.split())
