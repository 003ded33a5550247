"""Which tools a request is about: BM25 over their words, fused with the similarity of their vectors.

A model of 135 million weights chooses a tool less well than word search does; so search says which few it may choose
from, and how strongly.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelworks.agents.small.words import stems
from modelworks.agents.tool import Tool

Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to vectors of length 1, such as `retrieval.embed.EncoderEmbedder().embed`."""

MOST_TOOLS: Final = 5
_K1, _B = 1.2, 0.75  # Robertson and Zaragoza 2009, section 3.2
_DENSE_WEIGHT: Final = 0.6
_MOST_VECTORS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Ranked:
    """A tool, and how well it fits a request, beside the other tools."""

    tool: Tool
    score: float


class Ranker:
    """Ranks tools for requests; without `embed` by their words alone. Vectors of tools are kept."""

    def __init__(self, embed: Embed | None = None, *, dense_weight: float = _DENSE_WEIGHT) -> None:
        self._embed = embed
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()
        self._weight = dense_weight if embed is not None else 0.0

    def rank(self, query: str, tools: Sequence[Tool], most: int = MOST_TOOLS) -> list[Ranked]:
        """At most `most` tools, the best first."""
        bodies = [stems(spoken(tool)) for tool in tools]
        asked = list(dict.fromkeys(stems(query)))
        lexical = bm25(asked, bodies)
        best = max(lexical, default=0.0) or 1.0
        ranked = [
            Ranked(tool, (1 - self._weight) * words / best + self._weight * self.similarity(query, tool))
            for tool, words in zip(tools, lexical)
        ]
        return sorted(ranked, key=lambda each: -each.score)[:most]

    def similarity(self, text: str, tool: Tool) -> float:
        """How much a text is about what a tool does: the cosine, or without an embedder the share of its words."""
        if self._embed is None:
            asked = set(stems(text))
            return len(asked & set(stems(spoken(tool)))) / max(1, len(asked))
        return self._cosines(summary(tool), [text])[0]

    def closest(self, query: str, texts: Sequence[str], most: int) -> list[int]:
        """The places of the texts that are most like a query, the most like first."""
        if self._embed is not None:
            scores = self._cosines(query, texts)
        else:
            scores = bm25(list(dict.fromkeys(stems(query))), [stems(text) for text in texts])
        return sorted(range(len(texts)), key=lambda at: -scores[at])[:most]

    @property
    def likeness(self) -> Callable[[str, Sequence[str]], Sequence[float]] | None:
        """The cosines of one text with some others; None without an embedder."""
        return self._cosines if self._embed is not None else None

    def _cosines(self, text: str, others: Sequence[str]) -> list[float]:
        """By vectors that are kept, as tools and queries come again."""
        assert self._embed is not None
        wanted = dict.fromkeys((text, *others))
        with self._lock:
            if unknown := [each for each in wanted if each not in self._known]:
                self._known.update(zip(unknown, self._embed(unknown)))
            for each in wanted:
                self._known.move_to_end(each)
            vectors = {each: self._known[each] for each in wanted}
            while len(self._known) > _MOST_VECTORS:
                self._known.popitem(last=False)
        return [float(vectors[text] @ vectors[each]) for each in others]


def bm25(query: Sequence[str], bodies: Sequence[Sequence[str]]) -> list[float]:
    """The BM25 score of each body for the words of a query."""
    usual = sum(map(len, bodies)) / max(1, len(bodies)) or 1.0
    counts = [Counter(body) for body in bodies]
    scores = [0.0] * len(bodies)
    for word in query:
        holding = sum(word in count for count in counts)
        weight = math.log(1 + (len(bodies) - holding + 0.5) / (holding + 0.5))
        for at, count in enumerate(counts):
            times = count[word]
            scores[at] += weight * times * (_K1 + 1) / (times + _K1 * (1 - _B + _B * len(bodies[at]) / usual))
    return scores


def summary(tool: Tool) -> str:
    """A tool in a sentence: its name's words and its description."""
    name = tool.name.replace(".", " ").replace("_", " ")
    return f"{name}: {tool.description}"


def spoken(tool: Tool) -> str:
    """Name (which counts twice), description, and the names and descriptions of parameters."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    told = [f"{name} {schema.get('description', '')}" for name, schema in properties.items()]
    return " ".join([tool.name, tool.name, tool.description, *told])
