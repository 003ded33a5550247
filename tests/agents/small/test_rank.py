"""Which tools a request is about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from modelworks.agents.small.rank import Ranker, bm25
from modelworks.agents.tool import Tool


def make(name: str, description: str) -> Tool:
    return Tool(name, description, {"type": "object", "properties": {}}, print, frozenset())


TOOLS = [
    make("triangle.area", "Area of a triangle by base and height."),
    make("weather", "Forecast for a city."),
    make("play_song", "Play a song of an artist."),
    *(make(f"other_{at}", "Something else.") for at in range(6)),
]


def letters(texts: Sequence[str]) -> NDArray[np.float32]:
    counts = np.array([[1 + text.lower().count(letter) for letter in "aeiostw"] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.mark.parametrize("embed", [None, letters])
def test_the_right_tool_first_and_at_most_five(embed: object) -> None:
    ranked = Ranker(embed, dense_weight=0.3).rank("Play a song by the Herons", TOOLS)  # type: ignore[arg-type]
    assert ranked[0].tool.name == "play_song"
    assert len(ranked) == 5


def test_bm25_is_the_formula() -> None:
    """Robertson and Zaragoza 2009, worked by hand: two bodies, one of which has the word once among two."""
    idf = np.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    weight = 1 * 2.2 / (1 + 1.2 * (1 - 0.75 + 0.75 * 2 / 2))
    assert bm25(["a"], [["a", "b"], ["b", "c"]]) == pytest.approx([idf * weight, 0.0])
    assert bm25([], [[], []]) == [0.0, 0.0]


def test_vectors_are_made_once() -> None:
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return letters(texts)

    ranker = Ranker(embed)
    ranker.rank("Play a song", TOOLS)
    ranker.rank("Play a song", TOOLS)
    assert len(asked) == len(set(asked)) == len(TOOLS) + 1
    assert ranker.closest("a song", ["weather", "a song"], 1) == [1]
