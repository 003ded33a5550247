"""The adapters of an engine by name: which there are, who uses them, and when they can go."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelworks.adapt.qlora import NF4
from modelworks.adapt.read import read
from modelworks.core.errors import ConfigError
from modelworks.core.log import warn_once
from modelworks.engine.runner import Runner
from modelworks.models.base import LanguageModel


class UnknownAdapterError(ConfigError):
    """The engine has no adapter of that name."""


@dataclass(eq=False, slots=True)
class Loaded:
    """An adapter that a runner holds; one of the same name that comes later is another."""

    name: str
    number: int
    """The runner's, for its steps."""
    digest: bytes
    """What its weights are; keys and values of the prefix cache are found by it."""
    pins: int = 0
    """Submissions that are being read; their requests are nobody's yet."""


class Adapters:
    """Adding and removing from any thread. What is removed can be chosen no more, and stays until nobody uses it."""

    def __init__(self, model: LanguageModel, runner: Runner) -> None:
        self._model, self._runner = model, runner
        self._lock = threading.Lock()
        self._named: dict[str, Loaded] = {}
        self._removed: list[Loaded] = []

    def add(self, name: str, path: str | Path) -> None:
        """Read an adapter and give it to the runner. Raises what `read` does, and `ConfigError` for a name in use."""
        if not name.strip():
            raise ConfigError("an adapter needs a name")
        self._check_free(name)
        adapter = read(path, self._model)
        if adapter.base == NF4:
            warn_once(
                f"{path} was trained on weights rounded to {NF4}, and answers here with the model's own; "
                "`modelworks merge` makes a model with the weights that it was trained on"
            )
        loaded = Loaded(name, self._runner.add_adapter(adapter.matrices()), adapter.digest)
        try:
            with self._lock:
                self._check_free(name)
                self._named[name] = loaded
        except ConfigError:  # another thread was faster
            self._runner.remove_adapter(loaded.number)
            raise

    def _check_free(self, name: str) -> None:
        if name in self._named:
            raise ConfigError(f"there is an adapter {name!r} already; remove it first")

    def remove(self, name: str) -> None:
        """Raises `UnknownAdapterError`."""
        with self._lock:
            self._removed.append(self._get(name))
            del self._named[name]

    def names(self) -> tuple[str, ...]:
        """In the order in which they were added."""
        with self._lock:
            return tuple(self._named)

    @contextmanager
    def pinned(self, name: str | None) -> Iterator[Loaded | None]:
        """The adapter of a name, which stays meanwhile; None for None. Raises `UnknownAdapterError`."""
        if name is None:
            yield None
            return
        with self._lock:
            found = self._get(name)
            found.pins += 1
        try:
            yield found
        finally:
            with self._lock:
                found.pins -= 1

    def _get(self, name: str) -> Loaded:
        if name not in self._named:
            there = ", ".join(map(repr, self._named)) or "none"
            raise UnknownAdapterError(f"there is no adapter {name[:80]!r}; there are: {there}")
        return self._named[name]

    def sweep(self, used: Iterable[Loaded | None]) -> None:
        """Take from the runner what was removed and is not among those used."""
        if not self._removed:
            return
        kept = {id(each) for each in used}
        with self._lock:
            gone = [each for each in self._removed if not each.pins and id(each) not in kept]
            self._removed = [each for each in self._removed if each not in gone]
        for each in gone:
            self._runner.remove_adapter(each.number)
