from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.tools.search import DocumentSearch, Excerpt, cited, excerpt, search_documents


@dataclass(frozen=True)
class Hit:
    document: str
    page: int
    start: int
    end: int
    text: str


LEASE = Hit("lease.pdf", 3, 1200, 1248, "Dogs are allowed. Cats are not. Rent is due on 1st.")
MAIL = Hit("mail.eml", 1, 0, 21, "The dog is called Rex.")


def shelf(*hits: Hit) -> DocumentSearch:
    def search(query: str, limit: int) -> Sequence[Hit]:
        return [hit for hit in hits if any(word in hit.text.lower() for word in query.lower().split())][:limit]

    return DocumentSearch(search, limit=2)


def test_passages_come_with_number_place_and_the_documents_as_origins() -> None:
    found = shelf(LEASE, MAIL).tool().run(query="dog")
    assert found.content == (
        "[1] lease.pdf, page 3, characters 1200-1251\nDogs are allowed. Cats are not. Rent is due on 1st.\n\n"
        "[2] mail.eml, page 1, characters 0-22\nThe dog is called Rex."
    )
    assert found.origins == {"lease.pdf", "mail.eml"}
    tool = search_documents(lambda query, limit: [LEASE])
    assert (tool.name, tool.effects, tool.isolated) == ("search_documents", {"reads"}, False)
    assert "[1] lease.pdf" in tool.run(query="x").content


def test_a_number_is_one_passage_over_all_calls() -> None:
    shown = shelf(MAIL, LEASE)
    assert shown.find("called").content.startswith("[1] mail.eml")
    again = shown.find("dog").content
    assert "[1] mail.eml" in again
    assert "[2] lease.pdf" in again
    assert {number: each.document for number, each in shown.passages.items()} == {1: "mail.eml", 2: "lease.pdf"}


def test_nothing_found_is_said_and_comes_from_nobody() -> None:
    found = shelf(LEASE).find("zebra")
    assert "No passage matches" in found.content
    assert found.origins == frozenset()


def test_calls_at_the_same_time_share_no_number() -> None:
    shown = DocumentSearch(lambda query, limit: [Hit(f"{query}.md", 1, 0, 1, query[:1])])
    threads = [threading.Thread(target=shown.find, args=(f"query{at}",)) for at in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(shown.passages) == list(range(1, 21))


def test_a_long_passage_is_cut_to_the_sentences_that_the_query_is_about() -> None:
    text = "Much is said here about the garden. " * 40 + "The deposit is 900 euros. It is paid back. " + "Else. " * 90
    hit = Hit("lease.pdf", 1, 500, 500 + len(text), text)
    found = excerpt(hit, "How much is the deposit in euros?", 200)
    assert "The deposit is 900 euros." in found.text
    assert found.text.startswith("Much is said")
    assert found.text.endswith(".")
    assert len(found.text) <= 200
    assert text[found.start - 500 : found.end - 500] == found.text


@given(
    text=st.text(st.sampled_from("ab. \nß漢İ?"), max_size=400),
    query=st.text(st.sampled_from("ab ß漢"), max_size=8),
    longest=st.integers(20, 200),
    start=st.integers(0, 1000),
)
def test_an_excerpt_is_exactly_what_stands_at_its_place(text: str, query: str, longest: int, start: int) -> None:
    found = excerpt(Hit("a", 1, start, start + len(text), text), query, longest)
    assert text[found.start - start : found.end - start] == found.text
    assert len(found.text) <= longest
    assert found.text or not text.strip() or len(text) > longest


PASSAGES = {
    1: Excerpt("lease.pdf", 3, 1200, 1248, LEASE.text),
    2: Excerpt("mail.eml", 1, 0, 21, MAIL.text),
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Dogs are fine [1].", [(1, True)]),
        ('It says "Dogs are allowed." [1] and more.', [(1, True)]),
        ('It says "Dogs are welcome" [1].', [(1, False)]),
        ("Er sagt „Cats are not“ [1]. Und «called Rex» [2].", [(1, True), (2, True)]),
        ('"called Rex" [1]. "called Rex" [1, 2].', [(1, False), (1, True), (2, True)]),
        ("Dogs are allowed. [1] Cats? [7]", [(1, True), (7, False)]),
        ("Nothing is cited here, not even [this].", []),
    ],
)
def test_what_an_answer_cites_is_checked(answer: str, expected: list[tuple[int, bool]]) -> None:
    assert [(each.number, each.holds) for each in cited(answer, PASSAGES)] == expected


def test_an_answer_is_checked_against_what_was_shown() -> None:
    shown = shelf(LEASE)
    shown.find("dogs")
    good, bad = shown.cited('"Dogs are allowed." [1]\nCats are, too [2].')
    assert good.holds
    assert good.passage is not None
    assert good.passage.document == "lease.pdf"
    assert bad.passage is None
