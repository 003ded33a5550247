"""Tests of `modelworks.agents.mcp.pins`."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from modelworks.agents.mcp.pins import Pins
from modelworks.core.errors import ConfigError


def test_pins_are_kept_by_server_and_tool(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pins.json"
    pins = Pins(path)
    assert pins.get("a", "t") is None
    pins.put("a", {})
    assert not path.exists()
    pins.put("a", {"t": "1", "u": "2"})
    pins.put("b", {"t": "3"})
    pins.put("a", {"t": "4"})
    assert [Pins(path).get(*each) for each in (("a", "t"), ("a", "u"), ("b", "t"), ("b", "u"))] == ["4", "2", "3", None]


def test_without_a_file_pins_last_as_long_as_the_object() -> None:
    pins = Pins()
    pins.put("a", {"t": "1"})
    assert pins.get("a", "t") == "1"
    assert Pins().get("a", "t") is None


def test_two_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    threads = [threading.Thread(target=lambda n=n: Pins(path).put("a", {f"t{n}": "1"})) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(path.read_text())["a"]) == 16


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"t": 1}}', "[" * 100_000])
def test_a_file_that_holds_something_else_is_said_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pins.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"pins\.json"):
        Pins(path)
    assert path.read_text() == text


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        Pins(tmp_path / "file" / "pins.json").put("a", {"t": "1"})
