"""Questions to the documents: answers, refusals, and the sources behind them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from modelworks.data.document import Page

LEAVE = "people/leave & more #1?.md"
LEAVE_TEXT = (
    "# 🌴 Leave 🌴\n\nHolidays 🏖️ are for rest 😀.\n\n"
    "Employees have 28 days of\npaid leave a year 🎉, and <b>more</b> after ten years.\n\nAsk 👩‍👩‍👧 for it early.\n"
)
QUOTE = "Employees have 28 days of\npaid leave a year 🎉, and <b>more</b> after ten years."
PETS = "A cat sleeps on the warm windowsill.\n"


@pytest.fixture
def page(serving, shelf, tab) -> Any:
    """A folder whose only answers are sentences with "28 days"."""
    return tab(serving(documents=shelf({LEAVE: LEAVE_TEXT, "pets.txt": PETS}, "28 days"))).open()


def marked(page: Any) -> str:
    page.until(lambda: page.all("mark"))
    return page.js("return [...document.querySelectorAll('mark')].map((each) => each.textContent).join('')")


def in_sight(page: Any, selector: str) -> bool:
    return page.js(
        """const box = document.querySelector(arguments[0]).getBoundingClientRect();
        const frame = document.getElementById("source-scroll").getBoundingClientRect();
        return box.top >= frame.top && box.bottom <= frame.bottom;""",
        selector,
    )


def test_a_marker_opens_the_source_at_exactly_what_was_quoted(page) -> None:
    """Offsets count code points: emoji before the span, of two UTF-16 units each, must not shift what is marked."""
    page.ask("How many days of leave are there?")
    assert " ".join(page.text(".answer").split()) == " ".join(QUOTE.split()) + " 1"
    assert page.text(".answer strong") == "28 days"
    page.one(".answer .marker").click()
    assert marked(page) == QUOTE
    assert page.text("mark strong") == "28 days"
    assert in_sight(page, "mark")
    assert page.text("#source-title") == LEAVE
    assert page.js("return document.getElementById('source-text').innerText").count("🌴") == 2


def test_a_card_opens_the_same_place_as_its_marker(page) -> None:
    page.ask("How many days of leave are there?")
    page.one(".cards .card").click()
    assert marked(page) == QUOTE
    assert "page 1" in page.text(".card")


def test_a_refusal_shows_the_nearest_passages_which_open_alike(serving, shelf, tab) -> None:
    page = tab(serving(documents=shelf({LEAVE: LEAVE_TEXT, "pets.txt": PETS}, "nowhere in there"))).open()
    page.ask("Where does the cat sleep?")
    assert page.text(".refusal") == "The documents do not answer this question."
    assert not page.all(".answer")
    card = page.one(".cards .card")
    [name] = re.findall(r"pets\.txt|" + re.escape(LEAVE), card.text)
    card.click()
    assert marked(page).strip() in (LEAVE_TEXT if name == LEAVE else PETS)
    assert page.text("#source-title") == name


def test_citations_are_shown_before_the_answer_is_whole(serving, fabricated, tab) -> None:
    text = "A first sentence. A second one."
    documents = fabricated({"a.txt": text}, cite=("a.txt", 0, 17))
    documents.gate.clear()
    page = tab(serving(documents=documents)).open()
    page.submit("ask", "What?")
    page.one(".answer .marker").click()
    assert page.all(".working")
    assert marked(page) == "A first sentence."
    documents.gate.set()
    page.until(lambda: page.all(".exchange .actions"))
    assert not page.all(".working")
    assert page.one("#source").is_displayed()


def test_an_answer_can_be_stopped(serving, fabricated, tab) -> None:
    documents = fabricated({"a.txt": "Text."}, cite=("a.txt", 0, 5))
    documents.gate.clear()
    served = serving(documents=documents)
    page = tab(served).open()
    page.submit("ask", "What?")
    page.one(".answer .marker")
    page.one("#ask-form .stop").click()
    page.until(lambda: not page.all(".working"))
    assert "Stopped" in page.text(".exchange")
    page.until(lambda: served.service.metrics.in_flight == 0)


def test_a_document_that_was_changed_since_is_not_marked_wrongly(page, tmp_path: Path) -> None:
    page.ask("How many days of leave are there?")
    (tmp_path / "handbook" / LEAVE).write_text(
        "# Leave\n\nThere is no more leave here, and there never was, nor will be.\n"
    )
    page.one("[data-view=documents]").click()
    page.one("#sync").click()
    page.until(lambda: "1 updated" in page.text("#documents-facts") or "1 changed" in page.text("#documents-facts"))
    page.one("[data-view=ask]").click()
    page.one(".answer .marker").click()
    page.until(lambda: "never was" in page.text("#source-text"))
    assert "was changed since" in page.text("#source-notice")
    assert not page.all("mark")


def test_a_source_that_is_gone_says_so(page, tmp_path: Path) -> None:
    page.expected = ("404",)
    page.ask("How many days of leave are there?")
    (tmp_path / "handbook" / LEAVE).unlink()
    page.one("[data-view=documents]").click()
    page.one("#sync").click()
    page.until(lambda: "1 removed" in page.text("#documents-facts") or "1 deleted" in page.text("#documents-facts"))
    page.one("[data-view=ask]").click()
    page.one(".answer .marker").click()
    page.until(lambda: "not in the collection" in page.text("#source-text"))


def test_questions_outlive_the_page_until_they_are_cleared(page) -> None:
    page.ask("How many days of leave are there?")
    page.open()
    page.one(".answer .marker").click()
    assert marked(page) == QUOTE
    page.one("#ask-clear").click()
    assert not page.all(".exchange")
    page.open()
    assert page.one("#ask-empty").is_displayed()


def test_a_question_without_words_is_told(page) -> None:
    page.expected = ("400",)
    page.ask("???")
    assert "question" in page.text(".exchange .notice")
    page.one(".exchange .notice button").click()
    page.until(lambda: page.all(".exchange .notice"))
    assert len(page.all(".exchange")) == 1


# --- large documents and pages ----------------------------------------------------------------------------------------


def test_a_text_of_five_megabytes_opens_at_once_around_the_span(serving, fabricated, tab) -> None:
    line = "Nothing to see in this line 🙂, nor in the next.\n"
    before = line * 40_000
    needle = "Here it is 🎯."
    text = before + needle + "\n" + line * 60_000
    assert len(text) > 4_500_000
    documents = fabricated({"long.txt": text}, cite=("long.txt", len(before), len(before) + len(needle)))
    page = tab(serving(documents=documents)).open()
    page.ask("Where is it?")
    page.one(".answer .marker").click()
    assert marked(page) == needle
    assert in_sight(page, "mark")
    assert len(page.text("#source-text")) < 100_000
    # Reading forwards and backwards brings more, and what is in sight stays where it is.
    top = "return document.querySelector('mark').getBoundingClientRect().top"
    place = page.js(top)
    page.js("document.querySelector('#source-text .more').click()")
    assert abs(page.js(top) - place) < 2
    rendered = len(page.text("#source-text"))
    page.js("document.getElementById('source-scroll').scrollTop = 1e9")
    page.until(lambda: len(page.text("#source-text")) > rendered)
    page.one("#source-return").click()
    assert in_sight(page, "mark")


PAGED = "Alpha 😀 page.\n\nBeta page, with words.\n\nGamma page.\n"
STARTS = [0, PAGED.index("Beta"), PAGED.index("Gamma")]
PLACES = tuple(
    Page(number, start, end, label)
    for number, start, end, label in zip((1, 2, 3), STARTS, [*STARTS[1:], len(PAGED)], ("", "ii", ""))
)


def test_pages_are_apart_and_can_be_gone_to(serving, fabricated, tab) -> None:
    start = PAGED.index("words")
    documents = fabricated({"three.pdf": PAGED}, cite=("three.pdf", start, start + 5), pages={"three.pdf": PLACES})
    page = tab(serving(documents=documents)).open()
    page.ask("What?")
    assert "page 2" in page.text(".card")
    page.one(".answer .marker").click()
    assert marked(page) == "words"
    assert [each.text for each in page.all("#source .page")] == ["Page 1", "Page 2 (printed ii)", "Page 3"]
    over = "return document.querySelector('mark').closest('.piece').querySelector('.page').textContent"
    assert page.js(over) == "Page 2 (printed ii)"
    assert f"characters {start}–{start + 5}" in page.text("#source-foot")
    page.one("#source-previous").click()
    assert page.js("return document.getElementById('source-page').value") == "0"
    assert "Alpha 😀" in page.text("#source-text")


def test_a_span_over_two_pages_is_marked_on_both(serving, fabricated, tab) -> None:
    start, end = PAGED.index("words"), PAGED.index("page.\n", STARTS[2])
    documents = fabricated({"three.pdf": PAGED}, cite=("three.pdf", start, end), pages={"three.pdf": PLACES})
    page = tab(serving(documents=documents)).open()
    page.ask("What?")
    page.one(".answer .marker").click()
    assert marked(page) == PAGED[start:end]
    assert len(page.all("mark")) == 2


# --- what documents may hold ------------------------------------------------------------------------------------------

ATTACK = "<img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>[x](javascript:alert(4))"


@pytest.mark.parametrize("refuse", [False, True])
def test_names_and_texts_of_documents_are_never_markup(serving, fabricated, tab, refuse: bool) -> None:
    name = f"{ATTACK.replace('/', '')}'\".txt"
    documents = fabricated({name: ATTACK * 3}, cite=(name, 5, len(ATTACK)), refuse=refuse)
    page = tab(serving(documents=documents)).open()
    page.ask(ATTACK)
    page.one(".exchange .card").click()
    assert marked(page) == ATTACK[5:]
    page.open("documents")
    page.one("#documents-rows button").click()
    page.until(lambda: ATTACK in page.text("#source-text"))
    assert (
        page.js("return document.querySelectorAll('main img, main script, #source img, [onerror], [onload]').length")
        == 0
    )


def test_the_question_stays_in_sight_above_its_answer(serving, fabricated, tab) -> None:
    text = "word " * 1500
    page = tab(serving(documents=fabricated({"a.txt": text}, cite=("a.txt", 0, len(text) - 1)))).open()
    page.ask("First?")
    page.ask("Second?")
    above = "return document.querySelector('.exchange:last-child h2').getBoundingClientRect().top - arguments[0]"
    assert 0 <= page.js(above, page.one("#ask-scroll").rect["y"]) < 60
