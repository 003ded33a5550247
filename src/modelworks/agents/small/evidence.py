"""Whether a text says the value of a parameter: a reader is asked for the parameter, and answers with a span or none.

The place and the kind of a value do not tell that it is another thing's: in "lyrics of a song by Queen" the name that
stands where a title could is the band's. The reader that ships for this was trained on requests with and without the
value (`recipes/reader/parameters.py`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from modelworks.agents.small.texts import Text
from modelworks.agents.small.words import parts

Span: TypeAlias = tuple[int, int]


class Reading(Protocol):
    """The best answer within a span."""

    @property
    def margin(self) -> float:
        """Its score less that of "no answer", in logits."""


Read: TypeAlias = Callable[[str, Sequence[str], Sequence[Sequence[Span]]], Sequence[Sequence[Reading]]]
"""A question, passages, and spans of each, to a reading of each span; `retrieval.reader.parameter_reader().read` is
one."""

_WINDOW: Final = 800  # characters that are read at a time: about half of what the reader takes
_STEP: Final = 600
_MOST_KEPT: Final = 4_000


class Evidence:
    """Reads texts for parameters, and keeps what it read, as a request is gone through more than once."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._known: OrderedDict[tuple[str, str], Mapping[Span, float]] = OrderedDict()
        self._lock = threading.Lock()

    def margins(self, name: str, schema: Mapping[str, Any], text: Text) -> Mapping[Span, float]:
        """How far each span that the text mentions is the parameter's value: over "not said", in logits."""
        key = (question(name, schema), text.text)
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known
        made = self._margins(*key, [(each.start, each.end) for each in text.mentions])
        with self._lock:
            self._known[key] = made
            while len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)
        return made

    def _margins(self, asked: str, text: str, spans: Sequence[Span]) -> dict[Span, float]:
        windows: dict[int, list[Span]] = {}
        for span in dict.fromkeys(spans):
            windows.setdefault(span[0] // _STEP, []).append(span)
        begins = [max(0, at * _STEP - (_WINDOW - _STEP) // 2) for at in windows]
        passages = [text[begin : begin + _WINDOW] for begin in begins]
        places = [
            [(start - begin, min(end - begin, len(passage))) for start, end in inside]
            for begin, passage, inside in zip(begins, passages, windows.values())
        ]
        readings = self._read(asked, passages, places) if passages else []
        return {
            span: reading.margin
            for inside, read in zip(windows.values(), readings)
            for span, reading in zip(inside, read)
        }


def question(name: str, schema: Mapping[str, Any]) -> str:
    """What the reader is asked for a parameter."""
    return f"What {' '.join(parts(name)).lower()}? {schema.get('description', '')}".strip()
