"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through until a stop string is complete, and never any part of that string.

    Where several would match, the first to be complete ends the text, and of those complete at the same character the
    longest. How the text is cut into pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that can be shown now, and whether a stop string ended it. What may yet become one is held back."""
        text = self._held + text
        starts = ((text.find(stop), len(stop)) for stop in self._stops)
        found = [(start + size, start) for start, size in starts if start >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        held = max((self._begun(text, stop) for stop in self._stops), default=0)
        shown = len(text) - held
        self._held = text[shown:]
        return text[:shown], False

    def flush(self) -> str:
        """What was held back, once nothing can follow."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """How many of a stop string's first characters the text ends with."""
        longest = min(len(text), len(stop) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
