"""Web search through an engine that the user names: a SearXNG server or Brave's API. Without one there is no tool."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode, urlsplit

from modelworks.agents.net import Access, NetError, request
from modelworks.agents.tool import Result, Tool, tool
from modelworks.core.errors import ConfigError

BRAVE_KEY: Final = "BRAVE_API_KEY"
_BRAVE: Final = "https://api.search.brave.com/res/v1/web/search"
_MOST: Final = 20
_MARKUP: Final = re.compile(r"<[^>]*>")


@dataclass(frozen=True, slots=True)
class Hit:
    """A page that a search found."""

    title: str
    url: str
    snippet: str


Engine: TypeAlias = Callable[[str, int], Sequence[Hit]]
"""The best pages for a query, at most so many. Raises `NetError`."""


def engine(name: str, access: Access | None = None) -> Engine:
    """The engine of a name: `searxng:URL`, or `brave`, whose key is in the environment as BRAVE_API_KEY.

    A SearXNG server may be on this machine, for its URL is the user's own word. Raises ConfigError.
    """
    kind, _, rest = name.partition(":")
    if kind == "searxng" and rest:
        return _searxng(rest, access or Access())
    if name == "brave":
        if not (key := os.environ.get(BRAVE_KEY, "")):
            raise ConfigError(f"searching by Brave needs its key in the environment variable {BRAVE_KEY}")
        return _brave(key, access or Access())
    raise ConfigError(f"no search engine is called {name!r}; there are searxng:URL and brave")


def web_search(search: Engine, *, count: int = 5) -> Tool:
    """A tool that searches the web, and shows at most `count` pages by title, URL and a passage."""

    @tool(name="web_search", effects=["network"])
    def find(query: str) -> Result:
        """Search the web; returns titles, URLs and short passages of the best pages.

        Args:
            query: What to search for, in a few words.
        """
        if not query.strip():
            raise NetError("the query is empty")
        hits = list(search(query, count))[:count]
        told = [f"{number}. {hit.title}\n{hit.url}\n{hit.snippet}".rstrip() for number, hit in enumerate(hits, 1)]
        return Result("\n\n".join(told) or "nothing was found", frozenset(hit.url for hit in hits))

    return find


def _searxng(url: str, access: Access) -> Engine:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL of a SearXNG server: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{url!r} is no URL of a SearXNG server; it begins with http:// or https://")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    reached = replace(access, private=(*access.private, place))

    def search(query: str, count: int) -> Sequence[Hit]:
        found = _asked(f"{url.rstrip('/')}/search?{urlencode({'q': query, 'format': 'json'})}", {}, reached)
        return _hits(found.get("results"), "content")[:count]

    return search


def _brave(key: str, access: Access) -> Engine:
    def search(query: str, count: int) -> Sequence[Hit]:
        given = {"X-Subscription-Token": key, "Accept": "application/json"}
        found = _asked(f"{_BRAVE}?{urlencode({'q': query, 'count': min(count, _MOST)})}", given, access)
        web = found.get("web")
        return _hits(web.get("results") if isinstance(web, dict) else [], "description")[:count]

    return search


def _asked(url: str, headers: dict[str, str], access: Access) -> dict[str, Any]:
    answer = request(url, headers=headers, access=access)
    place = urlsplit(answer.url).netloc
    if answer.status != 200:
        hint = "; its settings must allow the format json" if answer.status == 403 and not headers else ""
        raise NetError(f"the search engine at {place} answers with status {answer.status}{hint}")
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise NetError(f"the search engine at {place} answers with what is no JSON") from error
    if not isinstance(found, dict):
        raise NetError(f"the search engine at {place} answers with what is no result of a search")
    return found


def _hits(results: Any, passage: str) -> list[Hit]:
    found = [each for each in results if isinstance(each, dict)] if isinstance(results, list) else []
    return [
        Hit(_plain(each.get("title")), str(each["url"]), _plain(each.get(passage))) for each in found if "url" in each
    ]


def _plain(text: Any) -> str:
    """A title or passage without the markup that sets its words off."""
    return " ".join(html.unescape(_MARKUP.sub("", text)).split()) if isinstance(text, str) else ""
