"""Tools that come with modelworks, by the names under which the command line takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from modelworks.agents.tool import Tool
from modelworks.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """What tools are given to work on."""

    write: bool = True
    """Whether they may also change what they work on."""
    search: str = ""
    """The engine that searches the web: `searxng:URL` or `brave`."""


Maker: TypeAlias = Callable[[Place], list[Tool]]


def _fetch(place: Place) -> list[Tool]:
    from modelworks.agents.tools.fetch import fetch

    return [fetch()]


def _http_request(place: Place) -> list[Tool]:
    from modelworks.agents.tools.fetch import EVERY, READING, http_request

    return [http_request(methods=EVERY if place.write else READING)]


def _web_search(place: Place) -> list[Tool]:
    from modelworks.agents.tools.web_search import engine, web_search

    if not place.search:
        raise ConfigError("tool web_search: needs a search engine, searxng:URL or brave")
    return [web_search(engine(place.search))]


TOOLS: Final[Mapping[str, Maker]] = {
    "fetch": _fetch,
    "http_request": _http_request,
    "web_search": _web_search,
}
"""Each loads its module when it is made."""


def make(names: Iterable[str], place: Place) -> list[Tool]:
    """The tools of some names, each once, in their order.

    Raises `ConfigError` for a name that there is none of, and for what one of them needs and is not given.
    """
    tools: list[Tool] = []
    for name in dict.fromkeys(names):
        if name not in TOOLS:
            raise ConfigError(f"no tool is called {name!r}; there are {', '.join(sorted(TOOLS))}")
        tools += TOOLS[name](place)
    return tools
