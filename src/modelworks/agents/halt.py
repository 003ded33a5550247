"""A halt that reaches everything which a run has under way: the model that writes, and the tools that run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress


class Halt:
    """Set once, from any thread; whoever works under it asks `is_set`, waits by `wait`, or registers an `on_set`."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def set(self) -> None:
        """Halt: every listener is called, in the calling thread. What is set stays so."""
        with self._lock:
            self._event.set()
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until the halt; whether it is set."""
        return self._event.wait(seconds)

    def on_set(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have a function called at the halt, at once where it is set already; returns what takes it off again.

        A listener must be quick and must not raise: it runs in the thread of whoever halts.
        """
        with self._lock:
            if not self._event.is_set():
                self._listeners.append(listener)
                return lambda: self._remove(listener)
        listener()
        return lambda: None

    def _remove(self, listener: Callable[[], None]) -> None:
        with self._lock, suppress(ValueError):
            self._listeners.remove(listener)
