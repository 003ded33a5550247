"""Tests of `modelworks.agents.tools.web_search`, on answers as the two engines' documentation has them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelworks.agents.net import Access, NetError, Response
from modelworks.agents.tool import Result
from modelworks.agents.tools import web_search as module
from modelworks.agents.tools.web_search import Hit, engine, web_search
from modelworks.core.errors import ConfigError

sys.path.append(str(Path(__file__).parents[1]))  # for `import web`

import web

SEARXNG = {
    "query": "kettle warranty",
    "number_of_results": 2,
    "results": [
        {
            "url": "https://example.com/kettle",
            "title": "Kettle &amp; warranty",
            "content": "Lasts  three\nyears.",
            "engine": "duckduckgo",
            "score": 1.0,
        },
        {"url": "https://example.org/", "title": "Other", "content": None},
        {"title": "without a URL"},
        "nothing",
    ],
    "answers": [],
}
BRAVE = {
    "type": "search",
    "query": {"original": "kettle"},
    "web": {
        "type": "search",
        "results": [
            {
                "title": "A <strong>kettle</strong>",
                "url": "https://example.com/kettle",
                "description": "The <strong>warranty</strong> lasts three years &lt;here&gt;.",
            }
        ],
    },
}


@pytest.fixture
def site() -> Iterator[web.Site]:
    with web.site() as made:
        yield made


def test_searxng_is_asked_at_the_users_own_address(site: web.Site) -> None:
    site.page("/s/search?q=kettle+warranty&format=json", json.dumps(SEARXNG), content_type="application/json")
    search = engine(f"searxng:{site.url}/s/")
    assert search("kettle warranty", 5) == [
        Hit("Kettle & warranty", "https://example.com/kettle", "Lasts three years."),
        Hit("Other", "https://example.org/", ""),
    ]
    tool = web_search(search, count=1)
    text = "1. Kettle & warranty\nhttps://example.com/kettle\nLasts three years."
    assert tool.run(query="kettle warranty") == Result(text, frozenset({"https://example.com/kettle"}))
    assert tool.effects == {"network"}


def test_brave_gets_its_key_and_its_markup_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    def request(url: str, *, headers: dict[str, str], access: Access) -> Response:
        asked.append((url, headers))
        return Response(url, 200, {"content-type": "application/json"}, json.dumps(BRAVE).encode())

    monkeypatch.setattr(module, "request", request)
    monkeypatch.setenv("BRAVE_API_KEY", "secret")
    found = engine("brave")("a kettle", 30)
    assert found == [Hit("A kettle", "https://example.com/kettle", "The warranty lasts three years <here>.")]
    url, headers = asked[0]
    assert url == "https://api.search.brave.com/res/v1/web/search?q=a+kettle&count=20"
    assert headers["X-Subscription-Token"] == "secret"


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (403, "", "status 403; its settings must allow the format json"),
        (429, "", "status 429"),
        (200, "<html>", "no JSON"),
        (200, "[]", "no result of a search"),
    ],
)
def test_an_engine_that_does_not_answer_is_said(site: web.Site, status: int, body: str, error: str) -> None:
    site.page("/search?q=x&format=json", body, status=status)
    with pytest.raises(NetError, match=error):
        engine(f"searxng:{site.url}")("x", 5)


@pytest.mark.parametrize("found", [{}, {"results": None}, {"results": []}])
def test_nothing_found_is_said(site: web.Site, found: Any) -> None:
    site.page("/search?q=x&format=json", json.dumps(found))
    assert web_search(engine(f"searxng:{site.url}")).run(query="x").content == "nothing was found"
    with pytest.raises(NetError, match="empty"):
        web_search(engine(f"searxng:{site.url}")).run(query=" ")


def test_there_is_no_engine_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAVE_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="BRAVE_API_KEY"):
        engine("brave")
    for name in (
        "",
        "google",
        "searxng",
        "searxng:",
        "searxng:localhost",
        "searxng:http://x:99999",
        "searxng:http://[",
    ):
        with pytest.raises(ConfigError):
            engine(name)
