"""The folder of documents over HTTP, with a reader that the tests control."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modelworks.core.errors import StoreError
from modelworks.retrieval.collection import Collection
from modelworks.retrieval.evidence import Calibration, Reading
from modelworks.serve.documents import Documents


class Finder:
    """Takes every sentence with a word for an answer."""

    def __init__(self, word: str = "three") -> None:
        self.word = word

    calibration = Calibration(margin=1.0, cosine=0.0, coverage=0.0, context=0.0, bias=0.0, threshold=0.5)

    def read(
        self, question: str, passages: Sequence[str], sentences: Sequence[Any], headings: Sequence[str] = ()
    ) -> list[list[Reading]]:
        return [
            [Reading(start, end, 5.0 if self.word in passage[start:end] else -5.0) for start, end in spans]
            for passage, spans in zip(passages, sentences)
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    (folder / "sub").mkdir(parents=True)
    (folder / "kettle.md").write_text("# Kettle 🫖\n\nThe warranty lasts three years.\n", encoding="utf-8")
    (folder / "sub/öffice.txt").write_text("Our office opened in 1998.\n", encoding="utf-8")
    return folder


@pytest.fixture
def unsynced(serving, folder: Path, tmp_path: Path, letters) -> Any:
    """A server over a folder that is not indexed yet."""
    return serving(documents=Documents(folder, Collection(tmp_path / "store", letters), reader=Finder()))


@pytest.fixture
def docs(unsynced) -> Any:
    assert unsynced.post("/api/sync").status_code == 202
    synced(unsynced)
    assert unsynced.service.documents.sync_state()["error"] is None
    return unsynced


def synced(served) -> dict[str, Any]:
    """The listing once no sync runs."""
    end = time.monotonic() + 20
    while (listing := served.http.get("/api/documents").json())["sync"]["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    return listing


def events(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_the_listing(docs) -> None:
    listing = docs.http.get("/api/documents").json()
    assert (listing["folder"], listing["coverage"]) == ("papers", 1.0)
    assert [each["name"] for each in listing["documents"]] == ["kettle.md", "sub/öffice.txt"]
    assert {each["status"] for each in listing["documents"]} == {"ok"}
    assert listing["sync"]["state"] == "idle"
    assert listing["sync"]["last"]["files"] == {"added": 2}
    assert "root" not in listing["documents"][0]


def test_a_document(docs) -> None:
    found = docs.http.get("/api/documents/sub/%C3%B6ffice.txt").json()
    assert found["text"] == "Our office opened in 1998.\n"
    assert found["pages"] == [{"number": 1, "start": 0, "end": 27, "label": ""}]
    for name in ("none.md", "../papers/kettle.md", "..%2f..%2fetc/passwd", "%00", "/etc/passwd"):
        response = docs.http.get(f"/api/documents/{name}")
        assert response.status_code == 404, name
        assert response.json()["error"]["type"] == "not_found_error"


def test_an_answer_comes_citation_by_citation(docs) -> None:
    response = docs.post("/api/ask", {"question": "How long does the warranty last?"})
    assert response.headers["content-type"].startswith("text/event-stream")
    (first, citation), (last, answer) = events(response.text)
    assert (first, last) == ("citation", "answer")
    assert citation["quote"] == "The warranty lasts three years."
    assert answer["citations"] == [citation]
    assert answer["refused"] is False
    text = docs.http.get(f"/api/documents/{citation['file']}").json()["text"]
    assert text[citation["start"] : citation["end"]] == citation["quote"]  # code points, past one beyond the BMP


def test_a_question_that_the_documents_do_not_answer(docs) -> None:
    docs.service.documents._reader = Finder("nowhere")
    [(name, answer)] = events(docs.post("/api/ask", {"question": "Where is the office?"}).text)
    assert (name, answer["refused"], answer["citations"]) == ("answer", True, [])
    assert len(answer["passages"]) == 2
    assert set(answer) == {"question", "answer", "refused", "citations", "passages", "timings"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "question"),
        ({"question": 3}, "question"),
        ({"question": " ?! "}, "question"),
        ({"question": "x" * 5000}, "question"),
        ({"question": "x", "k": 3}, "k"),
    ],
)
def test_a_question_that_is_none(docs, body: dict[str, Any], param: str) -> None:
    assert docs.refused("/api/ask", body)["param"] == param


def test_a_sync_takes_in_what_is_new(docs, folder: Path) -> None:
    (folder / "new.txt").write_text("Tea steeps three minutes.\n")
    (folder / "kettle.md").unlink()
    assert docs.post("/api/sync").json()["state"] == "running"
    listing = synced(docs)
    assert [each["name"] for each in listing["documents"]] == ["new.txt", "sub/öffice.txt"]


def test_two_syncs_at_once_are_one(unsynced, monkeypatch: pytest.MonkeyPatch) -> None:
    go, calls = threading.Event(), []
    real = unsynced.service.documents.collection.sync

    def slow(folder: Path) -> Any:
        calls.append(folder)
        assert go.wait(10)
        return real(folder)

    monkeypatch.setattr(unsynced.service.documents.collection, "sync", slow)
    for _ in range(3):
        assert unsynced.post("/api/sync").json()["state"] == "running"
    go.set()
    synced(unsynced)
    assert len(calls) == 1


def test_a_sync_that_fails_says_why_and_may_be_tried_again(docs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> Any:
        raise StoreError("the disk is full")

    monkeypatch.setattr(docs.service.documents.collection, "sync", broken)
    docs.post("/api/sync")
    assert synced(docs)["sync"] == {
        "state": "failed",
        "error": "the disk is full",
        "last": docs.service.documents._last,
    }
    monkeypatch.undo()
    docs.post("/api/sync")
    assert synced(docs)["sync"]["state"] == "idle"


def test_too_many_questions_are_sent_away(docs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelworks.serve.documents._MOST_WAITING", 0)
    [(_, said)] = [("", json.loads(docs.post("/api/ask", {"question": "Why?"}).text.removeprefix("data: ")))]
    assert said["error"]["code"] == "queue_full"


def test_without_a_folder_there_is_nothing(served) -> None:
    for path in ("/api/documents", "/api/documents/x"):
        assert served.http.get(path).status_code == 404
    assert served.post("/api/ask", {"question": "Why?"}).status_code == 404
