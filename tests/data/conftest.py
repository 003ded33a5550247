"""What the tests of data share: prose that every filter keeps."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

WORDS = (
    "the of and to that with have be river stone winter market letter garden window morning village bridge carpenter "
    "harvest lantern kitchen mountain journey picture doctor teacher station feather blanket silver autumn orchard"
).split()


@pytest.fixture(scope="session")
def prose() -> Callable[..., str]:
    """`prose(seed)`: sentences of ten words each, none of them twice, by a seed of their own."""

    def make(seed: int, sentences: int = 12) -> str:
        draw = random.Random(seed)
        lines = [" ".join(draw.choices(WORDS, k=10)).capitalize() + "." for _ in range(sentences)]
        return "The people of the town have to be heard.\n" + "\n".join(lines)

    return make
