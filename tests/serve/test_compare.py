"""The requests of the page of comparisons: blind, in the order of each person's page, and never kept twice."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.feedback.store import Answer, Comparison, Judgement


def ask(compared: Any, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    response = compared.http.post(f"/api/{path}", json={"annotator": "Ann"} | body)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found if status == 200 else found["error"]


def test_judging_goes_on_in_one_round_trip(comparing) -> None:
    compared = comparing(count=2)
    found = ask(compared, "next")
    assert found["comparison"]["prompt"] == [{"role": "user", "text": "Question 1?"}]
    assert found["progress"] == {"done": 0, "left": 2}
    found = ask(compared, "judgements", comparison=1, choice="1", group="doctors", comment="so", seconds=2.5)
    assert found["comparison"]["id"] == 2
    assert found["progress"] == {"done": 1, "left": 1}
    found = ask(compared, "judgements", comparison=2, choice="skip")
    assert found["comparison"] is None
    said, skipped = compared.store.judgements()
    assert (said.annotator, said.group, said.comment, said.seconds) == ("Ann", "doctors", "so", 2.5)
    assert said.choice == said.shown_first
    assert skipped.choice == "skip"


def test_what_is_chosen_is_in_the_order_of_the_page(comparing) -> None:
    compared = comparing(count=30)
    orders = set()
    found = ask(compared, "next")
    while (comparison := found["comparison"]) is not None:
        texts = [answer[0]["text"] for answer in comparison["answers"]]
        good = 1 + next(at for at, text in enumerate(texts) if text.startswith("Good"))
        orders.add(good)
        ratings = [{"helpfulness": 5}, {"safety": 1}] if good == 1 else [{"safety": 1}, {"helpfulness": 5}]
        found = ask(compared, "judgements", comparison=comparison["id"], choice=str(good), ratings=ratings)
    assert orders == {1, 2}
    for said in compared.store.judgements():
        assert said.choice == "first"
        assert said.ratings == {"first": {"helpfulness": 5}, "second": {"safety": 1}}


def test_no_model_is_named_to_the_browser(comparing) -> None:
    compared = comparing(count=2, wanted=2)
    for annotator, choice in (("Ann", "1"), ("Bob", "2")):
        ask(compared, "judgements", annotator=annotator, group=annotator, comparison=1, choice=choice)
    replies = [
        compared.http.post("/api/next", json={"annotator": "Ann"}),
        compared.http.post("/api/undo", json={"annotator": "Bob"}),
        compared.http.get("/api/results"),
    ]
    for reply in replies:
        assert reply.status_code == 200
        assert "secret" not in reply.text


def test_a_judgement_that_is_sent_again_is_kept_once_and_another_is_refused(comparing) -> None:
    compared = comparing()
    for _ in range(2):
        assert ask(compared, "judgements", comparison=1, choice="1")["comparison"]["id"] == 2
    error = ask(compared, "judgements", 409, comparison=1, choice="tie")
    assert (error["code"], error["message"]) == ("judged", "Ann has judged comparison 1 already")
    assert ask(compared, "judgements", 404, comparison=99, choice="tie")["code"] == "unknown_comparison"
    assert len(compared.store.judgements()) == 1


def test_undo_gives_back_what_was_said(comparing) -> None:
    compared = comparing()
    ratings = [{"accuracy": 2}, {}]
    ask(compared, "judgements", comparison=1, choice="2", ratings=ratings, comment="hm")
    found = ask(compared, "undo")
    assert found["comparison"]["id"] == 1
    assert found["judgement"] == {"choice": "2", "ratings": ratings, "comment": "hm"}
    assert found["progress"] == {"done": 0, "left": 3}
    assert ask(compared, "undo")["judgement"] is None


def test_results_are_those_of_the_store(comparing) -> None:
    compared = comparing(wanted=2)
    store = compared.store
    for annotator, choice in (("Ann", "first"), ("Bob", "second")):
        store.judge(Judgement(comparison=1, annotator=annotator, group=annotator, choice=choice))
    found = compared.http.get("/api/results").json()
    assert (found["total"], found["comparisons"], found["alpha"]) == (3, 1, 0.0)
    assert [(each["prompt"], each["first"]) for each in found["disputed"]] == [("Question 1?", "Good answer 1.")]


def test_turns_that_are_no_text_are_shown_as_json(comparing) -> None:
    compared = comparing(count=0)
    call = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    compared.store.add(
        [
            Comparison(
                prompt="Once upon",
                first=Answer(turns=({"role": "assistant", "tool_calls": [call]},)),
                second=Answer(turns=({"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},)),
            )
        ]
    )
    comparison = ask(compared, "next")["comparison"]
    assert comparison["prompt"] == [{"role": "user", "text": "Once upon"}]
    texts = " ".join(answer[0]["text"] for answer in comparison["answers"])
    assert '"weather"' in texts
    assert '"Hi"' in texts


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"choice": "first"}, "choice"),
        ({"choice": None}, "choice"),
        ({"comparison": 0}, "comparison"),
        ({"comparison": None}, "comparison"),
        ({"annotator": "x" * 81}, "annotator"),
        ({"comment": "x" * 10_001}, "comment"),
        ({"seconds": -1}, "seconds"),
        ({"ratings": [{"charm": 1}]}, "ratings[0].charm"),
        ({"ratings": [{"safety": 6}]}, "ratings[0].safety"),
        ({"ratings": [{}, {}, {}]}, "ratings"),
        ({"model": "x"}, "model"),
    ],
)
def test_what_is_no_judgement_is_refused_by_name(comparing, change: dict[str, Any], param: str) -> None:
    compared = comparing(count=1)
    assert ask(compared, "judgements", 400, **({"comparison": 1, "choice": "1"} | change))["param"] == param
    assert compared.store.judgements() == []


def test_a_name_that_is_none(comparing) -> None:
    assert "visible characters" in ask(comparing(), "next", 400, annotator="a\nb")["message"]


def test_a_store_that_fails_is_told_in_one_line(comparing) -> None:
    compared = comparing()
    pages = compared.store.rows("PRAGMA page_count")[0][0]
    compared.store.rows(f"PRAGMA max_page_count = {pages}")
    error = ask(compared, "judgements", 503, comparison=1, choice="1", comment="x" * 9000)
    assert "the disk is full" in error["message"]
    compared.store.rows("PRAGMA max_page_count = 100000")
    ask(compared, "judgements", comparison=1, choice="1", comment="x" * 9000)


def test_the_page_is_guarded_as_the_other_is(comparing) -> None:
    compared = comparing(api_keys=["open sesame"])
    home = compared.http.get("/", follow_redirects=True)
    assert home.url.path == "/compare/"
    assert "default-src 'none'" in home.headers["content-security-policy"]
    ask(compared, "next", 401)
    compared.http.headers["authorization"] = "Bearer open sesame"
    assert compared.http.get("/api/results").status_code == 200
    assert compared.http.get("/compare/", headers={"host": "evil.example"}).status_code == 403
    assert compared.http.post("/api/results").status_code == 405
    assert compared.http.get("/api/absent").status_code == 404
