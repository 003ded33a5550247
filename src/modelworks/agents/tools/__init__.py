"""Tools that come with modelworks, by the names under which the command line takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from modelworks.agents.tool import Tool
from modelworks.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """What tools are given to work on."""

    workspace: str | os.PathLike[str] | None = None
    """The folder whose files they see."""
    write: bool = True
    """Whether they may also change them."""
    data: str | os.PathLike[str] | None = None
    """An SQLite database, a CSV file, or a folder of CSV files."""
    search: str = ""
    """The engine that searches the web: `searxng:URL` or `brave`."""

    def folder(self, tool: str) -> Path:
        """The workspace; raises `ConfigError`, naming the tool that needs one, where none is given."""
        if self.workspace is None:
            raise ConfigError(f"tool {tool}: needs a workspace, the folder that it works in")
        return Path(self.workspace)


Maker: TypeAlias = Callable[[Place], list[Tool]]


def _calculator(place: Place) -> list[Tool]:
    from modelworks.agents.tools.calculator import calculator

    return [calculator()]


def _files(place: Place) -> list[Tool]:
    from modelworks.agents.tools.files import files

    return files(place.folder("files"), write=place.write)


def _python(place: Place) -> list[Tool]:
    from modelworks.agents.tools.python import python

    return [python(place.workspace, write=place.write)]


def _command(place: Place) -> list[Tool]:
    from modelworks.agents.tools.command import command

    return [command(place.folder("command"), write=place.write)]


def _sql(place: Place) -> list[Tool]:
    from modelworks.agents.tools.sql import sql

    if place.data is None:
        raise ConfigError("tool sql: needs data, an SQLite database, a CSV file or a folder of CSV files")
    return [sql(place.data)]


def _sql_write(place: Place) -> list[Tool]:
    from modelworks.agents.tools.sql import sql_write

    if place.data is None:
        raise ConfigError("tool sql_write: needs data, an SQLite database")
    return [sql_write(place.data)]


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
    "calculator": _calculator,
    "command": _command,
    "fetch": _fetch,
    "files": _files,
    "http_request": _http_request,
    "python": _python,
    "sql": _sql,
    "sql_write": _sql_write,
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
