from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.agents.tools import TOOLS, Place, make
from modelworks.core.errors import ConfigError


def test_tools_are_made_by_name_once_and_in_order(tmp_path: Path) -> None:
    names = [tool.name for tool in make(["files", "calculator", "files"], Place(workspace=tmp_path, write=False))]
    assert names == ["list_files", "read_file", "search_files", "calculator"]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="no tool is called 'calc'; there are calculator, command"):
        make(["calc"], Place())
    with pytest.raises(ConfigError, match="tool files: needs a workspace"):
        make(["files"], Place())
    with pytest.raises(ConfigError, match="tool sql: needs data"):
        make(["sql"], Place())


def test_names_are_known_without_loading_the_tools() -> None:
    code = (
        "import sys; from modelworks.agents.tools import TOOLS; print([m for m in sys.modules if 'agents.tools.' in m])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert "calculator" in TOOLS


def test_the_web_is_reached_by_name_only_and_a_search_needs_its_engine() -> None:
    place = Place(write=False, search="searxng:http://127.0.0.1:8888")
    found = {each.name: each.effects for each in make(("fetch", "http_request", "web_search"), place)}
    assert found == dict.fromkeys(("fetch", "http_request", "web_search"), frozenset({"network"}))
    assert make(("http_request",), Place())[0].effects == {"network", "writes"}
    with pytest.raises(ConfigError, match="needs a search engine"):
        make(("web_search",), Place())
