"""Search in documents: passages that are numbered, so that an answer can cite them and its citations can be checked.

Where the passages come from is the caller's: `retrieval`'s `Collection.search` is such a callable.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from modelworks.agents.tool import Result, Tool, tool
from modelworks.text.words import query_terms

LONGEST: Final = 500
"""Characters of a passage that a model is shown."""
_NOTHING: Final = "No passage matches. Try other words."
_START: Final = re.compile(r"(?<=[.!?。！？])\s+|\n+")  # behind which a sentence or a line begins
_MARKER: Final = re.compile(r"\[(\d{1,6}(?:\s*,\s*\d{1,6})*)\]")
_QUOTE: Final = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»')


class Passage(Protocol):
    """What a search finds: characters `start:end` of the text of `document` are exactly `text`."""

    @property
    def document(self) -> str: ...
    @property
    def page(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What a model was shown of a passage; again `text` is exactly what stands in the document at `start:end`."""

    document: str
    page: int
    start: int
    end: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}, page {self.page}, characters {self.start}-{self.end}"


@dataclass(frozen=True, slots=True)
class Citation:
    """A number in an answer, and what is to be said of it."""

    number: int
    passage: Excerpt | None
    """None for a number that nothing was shown under."""
    quotes: tuple[str, ...] = ()
    """What the sentence has in quotation marks."""
    exact: bool = True
    """Whether each of them stands in a passage that the sentence cites, character by character."""

    @property
    def holds(self) -> bool:
        return self.passage is not None and self.exact


class DocumentSearch:
    """The tool `search_documents`, and what it has shown: numbers go on from call to call, so that each is one passage.

    One is for one run, or for one dialogue. Calls may come from several threads.
    """

    def __init__(
        self, search: Callable[[str, int], Sequence[Passage]], *, limit: int = 4, longest: int = LONGEST
    ) -> None:
        """search: the best passages for a query, at most so many. limit, longest: how many are shown, and how much."""
        self._search, self._limit, self._longest = search, limit, longest
        self._numbers: dict[Excerpt, int] = {}
        self._lock = threading.Lock()

    @property
    def passages(self) -> Mapping[int, Excerpt]:
        """What was shown, by its number."""
        with self._lock:
            return {number: excerpt for excerpt, number in self._numbers.items()}

    def tool(self) -> Tool:
        """`search_documents`; it keeps to this process, since an index does not outlive a fork."""

        @tool(effects=["reads"], isolated=False)
        def search_documents(query: str) -> Result:
            """Search the user's documents. Cite a passage by its number in brackets, like [1].

            Args:
                query: What to look for: a question or a few words.
            """
            return self.find(query)

        return search_documents

    def find(self, query: str) -> Result:
        """The best passages with their numbers and places; what they come from is the documents."""
        if not query.strip():
            return Result("The query is empty: say what to look for.", error=True)
        found = [excerpt(passage, query, self._longest) for passage in self._search(query, self._limit)]
        with self._lock:
            numbers = [self._numbers.setdefault(each, len(self._numbers) + 1) for each in found]
        said = [f"[{number}] {each}\n{each.text}" for number, each in zip(numbers, found, strict=True)]
        return Result("\n\n".join(said) or _NOTHING, frozenset(each.document for each in found))

    def cited(self, answer: str) -> list[Citation]:
        """As the function `cited`, over what was shown."""
        return cited(answer, self.passages)


def search_documents(search: Callable[[str, int], Sequence[Passage]], *, limit: int = 4) -> Tool:
    """The tool `search_documents` alone, where nobody checks what an answer cites."""
    return DocumentSearch(search, limit=limit).tool()


def excerpt(passage: Passage, query: str, longest: int) -> Excerpt:
    """The sentences and lines of a passage that have most of a query's words, of at most `longest` characters."""
    text = passage.text
    start, end = (0, len(text)) if len(text) <= longest else _window(text, query, longest)
    return Excerpt(passage.document, passage.page, passage.start + start, passage.start + end, text[start:end])


def _window(text: str, query: str, longest: int) -> tuple[int, int]:
    """The best window that begins with a sentence or line; a word counts less, the more often the text has it."""
    starts = [0, *(match.end() for match in _START.finditer(text) if match.end() < len(text))]
    folded = text.casefold() if len(text.casefold()) == len(text) else text.lower()
    places = [found for term in query_terms(query) if (found := _places(folded, term))]

    def score(window: tuple[int, int]) -> float:
        start, end = window
        return sum(1 / len(found) for found in places if any(start <= at < end for at in found))

    return max(((start, _end(text, starts, start, longest)) for start in starts), key=score)


def _end(text: str, starts: Sequence[int], start: int, longest: int) -> int:
    """Where a window ends: with a sentence where that leaves half of it, or else between two words."""
    if start + longest >= len(text):
        return len(text)
    end = starts[bisect_right(starts, start + longest) - 1]
    if end <= start + longest // 2:
        end = text.rfind(" ", start + 1, start + longest)
    end = end if end > start else start + longest
    return start + len(text[start:end].rstrip())


def _places(text: str, term: str) -> list[int]:
    found, at = [], text.find(term)
    while at >= 0:
        found.append(at)
        at = text.find(term, at + 1)
    return found


def cited(answer: str, passages: Mapping[int, Excerpt]) -> list[Citation]:
    """What an answer cites, sentence by sentence, each number once a sentence.

    A quotation is exact where a passage that its sentence cites has it, character by character: a model that changes a
    word within quotation marks, or cites what it was never shown, is found out.
    """
    citations: list[Citation] = []
    for sentence in _sentences(answer):
        numbers = [int(each) for match in _MARKER.finditer(sentence) for each in match[1].split(",")]
        quotes = tuple(next(filter(None, match.groups())) for match in _QUOTE.finditer(_MARKER.sub("", sentence)))
        shown = [passages[number].text for number in numbers if number in passages]
        exact = all(any(quote in text for text in shown) for quote in quotes)
        citations += [Citation(number, passages.get(number), quotes, exact) for number in dict.fromkeys(numbers)]
    return citations


def _sentences(text: str) -> list[str]:
    """Sentences with the numbers that follow their full stops."""
    sentences: list[str] = []
    for piece in _START.split(text):
        if sentences and _MARKER.match(piece) and not _MARKER.sub("", piece).strip(" .,;"):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
    return sentences
