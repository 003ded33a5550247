from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modelworks.agents.memory.semantic import Facts, FactStore
from modelworks.core.errors import ConfigError


class Topics:
    """An embedder that knows which words are of one topic."""

    id = "topics@1"
    words = (("dog", "puppy", "pet"), ("rent", "money", "euro"))

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.embedded += len(texts)
        counts_NC = np.array(
            [[sum(word in text.lower() for word in topic) for topic in self.words] + [0.1] for text in texts],
            np.float32,
        )
        return counts_NC / np.linalg.norm(counts_NC, axis=1, keepdims=True)


@pytest.fixture
def facts(tmp_path: Path) -> Any:
    with Facts(tmp_path / "memory.db") as opened:
        yield opened


def texts(found: Sequence[Any]) -> list[str]:
    return [each.text for each in found]


def test_facts_are_found_by_their_words_and_their_stems(facts: Facts) -> None:
    store: FactStore = facts
    store.add(["Dogs are allowed.", "The rent is due on the first.", "猫は二匹いる"])
    assert texts(store.search("dog", 5)) == ["Dogs are allowed."]
    assert texts(store.search("when is the rent due", 5)) == ["The rent is due on the first."]
    assert texts(store.search("二匹", 5)) == ["猫は二匹いる"]
    assert store.search("zebra", 5) == []
    assert store.search("", 5) == []
    assert len(store.search("dog rent", 1)) == 1


def test_a_fact_is_kept_once_with_all_its_origins(facts: Facts) -> None:
    (first,) = facts.add(["Dogs  are\nallowed."], origins=["lease.pdf"])
    (again,) = facts.add(["Dogs are allowed."], origins=["mail.eml"])
    assert first == again
    (fact,) = facts.all()
    assert (fact.text, fact.origins) == ("Dogs are allowed.", {"lease.pdf", "mail.eml"})
    assert texts(facts.search("dogs")) == [fact.text]


@pytest.mark.parametrize("text", ["", " \n", "x" * 2001])
def test_what_is_no_fact_is_refused_with_all_that_came_with_it(facts: Facts, text: str) -> None:
    with pytest.raises(ConfigError, match="a fact has 1 to 2000 characters"):
        facts.add(["Dogs are allowed.", text])
    assert facts.all() == []


def test_an_embedder_finds_by_meaning_and_leaves_out_what_is_far(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with Facts(path) as facts:
        facts.add(["A puppy may live here.", "The rent is 900."])
    topics = Topics()
    with Facts(path, topics) as facts:
        assert texts(facts.search("Are pets allowed?")) == ["A puppy may live here."]
        assert topics.embedded == 3
        facts.add(["Money is due on the first."])
        assert set(texts(facts.search("euro"))) == {"The rent is 900.", "Money is due on the first."}
        assert topics.embedded == 5  # no text twice
        assert facts.search("zebra") == []
    other = Topics()
    other.id = "topics@2"
    with Facts(path, other) as facts:
        assert texts(facts.search("pet")) == ["A puppy may live here."]
        assert other.embedded == 4  # another embedder's vectors are of no use


def test_words_and_meaning_together_rank_first(tmp_path: Path) -> None:
    with Facts(tmp_path / "memory.db", Topics()) as facts:
        facts.add(["A puppy may live here.", "The dog is called Rex.", "Rex is a name."])
        assert texts(facts.search("the dog Rex"))[0] == "The dog is called Rex."


def test_removed_facts_are_gone(facts: Facts) -> None:
    ids = facts.add(["Ann Lee lives in Leiden.", "Bob lives in Delft."])
    assert [fact.id for fact in facts.mentioning("ann lee")] == ids[:1]
    assert facts.remove([ids[0], "nonsense", "9" * 30]) == 1
    assert texts(facts.all()) == ["Bob lives in Delft."]
    assert b"Leiden" not in b"".join(each.read_bytes() for each in facts.path.parent.iterdir())
