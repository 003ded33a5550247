"""Batches without end, or for some epochs, that resume at the exact row.

A stream is an order of rows (`data/rows.py`) and a place in it. All ranks walk the same order and load their part of
it: a batch of `world` ranks is the next `world * batch_size` rows, so what was seen is one place, and a run can go on
with another number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from modelworks.core.errors import ConfigError
from modelworks.data.batch import Batch
from modelworks.data.collate import BLANK, Row, collate
from modelworks.data.rows import Plan, Rows, check_sizes
from modelworks.data.shuffle import uniform


class Collate(Protocol):
    """Rows to a batch; `data.collate.collate` is one."""

    def __call__(self, rows: Sequence[Any], *, pad_id: int, length: int | None, masked: bool) -> Batch: ...


class _Cursor:
    """A place in an order of rows: epoch, window, and row of the window."""

    def __init__(self, rows: Rows, epochs: int | None) -> None:
        self._rows, self._epochs = rows, epochs
        self._epoch = self._window = self._row = 0
        self._planned: list[Plan] | None = None
        self.pad_id, self.masked = rows.pad_id, rows.masked

    def take(self, count: int) -> list[Plan]:
        """The next rows; fewer than `count` only at the end of the last epoch."""
        taken: list[Plan] = []
        while len(taken) < count and self._epoch != self._epochs:
            if self._planned is None:
                self._planned = self._rows.plan(self._epoch, self._window)
            more = self._planned[self._row : self._row + count - len(taken)]
            taken += more
            self._row += len(more)
            if self._row == len(self._planned):
                self._row, self._planned = 0, None
                self._window += 1
                if self._window == self._rows.windows():
                    self._window, self._epoch = 0, self._epoch + 1
        return taken

    def total(self) -> int | None:
        """How many rows all epochs have; None where there is no end."""
        if self._epochs is None:
            return None
        windows = ((epoch, window) for epoch in range(self._epochs) for window in range(self._rows.windows()))
        return sum(len(self._rows.plan(*at)) for at in windows)

    def state(self) -> dict[str, Any]:
        return {"order": self._rows.identity(), "epoch": self._epoch, "window": self._window, "row": self._row}

    def restore(self, state: Mapping[str, Any]) -> None:
        _check_identity(state, self._rows.identity())
        epoch, window, row = (_whole(state, name) for name in ("epoch", "window", "row"))
        if window >= self._rows.windows():
            raise ConfigError(f"the saved place in the data is window {window} of {self._rows.windows()}")
        self._epoch, self._window, self._row, self._planned = epoch, window, row, None


@dataclass(frozen=True)
class Mixture:
    """Rows of several orders, each row drawn from one of them with a probability in proportion to its weight.

    `parts` gives each by a name: `{"web": (rows, 0.8), "code": (rows, 0.2)}`. It has no end: each part begins anew when
    it is through. Raises ConfigError for weights that are not positive.
    """

    parts: Mapping[str, tuple[Rows, float]]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("a mixture has no parts")
        for name, (_, weight) in self.parts.items():
            if not 0 < weight < float("inf"):
                raise ConfigError(f"the weight of {name!r} in the mixture is {weight}; it has to be above 0")


class _MixedCursor:
    """A place in a mixture: how many rows were drawn, and the place in each part."""

    def __init__(self, mixture: Mixture) -> None:
        self._seed = mixture.seed
        self._cursors = {name: _Cursor(rows, None) for name, (rows, _) in mixture.parts.items()}
        weights = np.array([weight for _, weight in mixture.parts.values()])
        self._weights = {name: weight for name, (_, weight) in mixture.parts.items()}
        self._bounds = (weights / weights.sum()).cumsum()[:-1]
        self._drawn = 0
        self.pad_id = next(iter(self._cursors.values())).pad_id
        self.masked = any(cursor.masked for cursor in self._cursors.values())

    def take(self, count: int) -> list[Plan]:
        names, taken = list(self._cursors), []
        for _ in range(count):
            at = int(np.searchsorted(self._bounds, uniform(self._seed, self._drawn), "right"))
            taken += self._cursors[names[at]].take(1)
            self._drawn += 1
        return taken

    def total(self) -> int | None:
        return None

    def _identity(self) -> dict[str, Any]:
        return {"rows": "mixture", "seed": self._seed, "weights": self._weights}

    def state(self) -> dict[str, Any]:
        parts = {name: cursor.state() for name, cursor in self._cursors.items()}
        return {"order": self._identity(), "drawn": self._drawn, "parts": parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        _check_identity(state, self._identity())
        self._drawn = _whole(state, "drawn")
        for name, cursor in self._cursors.items():
            try:
                cursor.restore(state["parts"][name])
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error


def _check_identity(state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raise ConfigError where a state is of another order than this one."""
    saved = state.get("order")
    if not isinstance(saved, dict) or saved.get("rows") != identity["rows"]:
        kind = saved.get("rows") if isinstance(saved, dict) else None
        raise ConfigError(
            f"the saved place in the data is of {kind or 'no known kind of'} rows, not {identity['rows']}"
        )
    for name, value in identity.items():
        if saved.get(name) != value:
            what = "of other data" if name == "data" else f"of {name}={saved.get(name)!r}, not {value!r}"
            raise ConfigError(f"the saved place in the data is {what}; resume with what the run was started with")


def _whole(state: Mapping[str, Any], name: str) -> int:
    value = state.get(name)
    if not isinstance(value, int) or value < 0:
        raise ConfigError(f"the saved place in the data has {name}={value!r}, which is no count")
    return value


# --- streams ----------------------------------------------------------------------------------------------------------


class Stream:
    """A `BatchStream` (`data/batch.py`): batches of `batch_size` rows for one of `world` ranks.

    Without `epochs` it has no end. With, the last batch may have fewer rows, as many on each rank; where they cannot be
    shared out evenly, some are blank and count nothing. `length` pads all batches to one number of tokens. `collate`
    makes a batch of rows that are not of `data/rows.py`, blank ones among them. Raises ConfigError for a mixture with
    `epochs` and for numbers out of range.
    """

    def __init__(
        self,
        rows: Rows | Mixture,
        batch_size: int,
        *,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
        length: int | None = None,
        collate: Collate = collate,
    ) -> None:
        check_sizes(batch_size=batch_size, world=world, epochs=1 if epochs is None else epochs)
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is not one of {world}")
        if isinstance(rows, Mixture) and epochs is not None:
            raise ConfigError("a mixture has no epochs, as its parts end at different times; count steps instead")
        self._cursor = _MixedCursor(rows) if isinstance(rows, Mixture) else _Cursor(rows, epochs)
        self._batch_size, self._rank, self._world, self._length = batch_size, rank, world, length
        self._collate = collate

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the present place on; `state` after a batch is the place behind it."""
        while plans := self._cursor.take(self._batch_size * self._world):
            share = -(-len(plans) // self._world)
            mine = [plan() for plan in plans[self._rank * share : (self._rank + 1) * share]]
            mine += [BLANK] * (share - len(mine))
            yield self._collate(mine, pad_id=self._cursor.pad_id, length=self._length, masked=self._masked(mine))

    def _masked(self, rows: list[Row]) -> bool:
        return self._cursor.masked or any(row is BLANK for row in rows)

    def batches(self) -> int | None:
        """How many batches all epochs have, from the beginning; None where there is no end. It plans every epoch."""
        total = self._cursor.total()
        return None if total is None else -(-total // (self._batch_size * self._world))

    def state(self) -> dict[str, Any]:
        return self._cursor.state()

    def restore(self, state: dict[str, Any]) -> None:
        self._cursor.restore(state)
