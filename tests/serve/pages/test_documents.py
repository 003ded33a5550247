"""The list of documents: state, sync, reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def page(serving, shelf, tab) -> Any:
    files = {
        "guides/start.md": "# Start here\n\nPress the button.\n",
        "pets.txt": "A cat.\n",
        "broken.pdf": b"%PDF-1.4",
    }
    return tab(serving(documents=shelf(files))).open("documents")


def rows(page: Any) -> dict[str, str]:
    """What each row says, by the document's name."""
    return page.js(
        """return Object.fromEntries([...document.querySelectorAll("#documents-rows tr")].map((row) =>
          [row.querySelector("th > :first-child").textContent, row.innerText]))"""
    )


def test_the_list_says_what_was_read_and_why_not(page) -> None:
    found = rows(page)
    assert sorted(found) == ["broken.pdf", "guides/start.md", "pets.txt"]
    assert "Ready" in found["pets.txt"]
    assert "Start here" in found["guides/start.md"]
    assert "Skipped" in found["broken.pdf"]
    assert "broken" in found["broken.pdf"].replace("broken.pdf", "")
    assert not page.all("#documents-rows tr:first-child button")  # there is nothing to read
    facts = page.text("#documents-facts")
    assert "handbook" in facts
    assert "2, 1 skipped" in facts
    assert "all passages" in facts


def test_a_name_opens_the_document_and_escape_returns_to_it(page) -> None:
    page.one("#documents-rows tr:nth-child(2) button").click()
    page.until(lambda: "Press the button." in page.text("#source-text"))
    assert page.text("#source-title") == "guides/start.md"
    assert not page.all("mark")
    page.press("\ue00c")
    assert not page.one("#source").is_displayed()
    assert page.focused("#documents-rows tr:nth-child(2) button")


def test_sync_brings_what_is_new(page, tmp_path: Path) -> None:
    (tmp_path / "handbook" / "new.txt").write_text("A dog barks at the postman.\n")
    page.one("#sync").click()
    page.until(lambda: "new.txt" in rows(page))
    assert "1 added" in page.text("#documents-facts")


def test_the_filter_goes_by_name_and_title(page) -> None:
    page.one("#documents-filter").send_keys("START h")
    page.until(lambda: list(rows(page)) == ["guides/start.md"])
    assert page.text("#documents-count") == "1 of 3"


def test_a_long_list_is_shown_in_parts(serving, fabricated, tab) -> None:
    texts = {f"{number:04}.txt": "Text." for number in range(450)}
    page = tab(serving(documents=fabricated(texts, cite=("0000.txt", 0, 5)))).open("documents")
    assert len(page.all("#documents-rows tr")) == 200
    page.one("#documents-more").click()
    assert len(page.all("#documents-rows tr")) == 400
    assert page.focused("#documents-rows tr:nth-child(201) button")


def test_without_a_folder_there_is_only_chat(serving, tab) -> None:
    page = tab(serving())
    page.expected = ("404",)
    page.open()
    assert [each.text for each in page.all(".tabs a:not([hidden])")] == ["Chat"]
    assert page.one("#view-chat").is_displayed()
