"""The definitions of servers' tools as the user took them, by hash: one that changes later is another tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from modelworks.core.errors import ConfigError
from modelworks.core.paths import atomic_file, cache_dir


def default_path() -> Path:
    """The user's own file of pins."""
    return cache_dir() / "mcp-pins.json"


class Pins:
    """Hashes by server and tool, in a JSON file that several processes may share, or in memory without one."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises `ConfigError` for a file that is there and holds something else."""
        self._path = path
        self._held: dict[str, dict[str, str]] = {}
        self._held = self._read()

    def get(self, server: str, tool: str) -> str | None:
        """The hash of the definition that was taken; None for a tool that never was."""
        return self._read().get(server, {}).get(tool)

    def put(self, server: str, definitions: Mapping[str, str]) -> None:
        """Take definitions, by tool, in place of those there are. Raises `ConfigError` for a file that cannot be."""
        if not definitions:
            return
        if self._path is None:
            self._held.setdefault(server, {}).update(definitions)
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock"):
                held = self._read()
                held.setdefault(server, {}).update(definitions)
                with atomic_file(self._path) as file:
                    json.dump(held, file, indent=2, sort_keys=True)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def _read(self) -> dict[str, dict[str, str]]:
        if self._path is None:
            return self._held
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self._path}: not valid JSON: {error}") from error
        if not isinstance(held, dict) or not all(
            isinstance(tools, dict) and all(isinstance(value, str) for value in tools.values())
            for tools in held.values()
        ):
            raise ConfigError(f"{self._path}: expected hashes of definitions by server and tool")
        return held
