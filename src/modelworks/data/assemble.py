"""The second half of a preparation: the parts without their duplicates, mixed by weights or in order, written.

Shapes: D texts of all parts, numbered in the order of the input.
"""

from __future__ import annotations

import gzip
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ModelworksError
from modelworks.data.dedup import find_duplicates
from modelworks.data.files import DROPS
from modelworks.data.mix import Share, mix, plan
from modelworks.data.parts import Done, json_line
from modelworks.data.sources import Unread
from modelworks.data.tally import Drop, Tally
from modelworks.data.write import Writer

if TYPE_CHECKING:
    from modelworks.data.prepare import Preparation

_OPEN_FILES = 64


class Assembly:
    """The texts of finished parts, as one sequence."""

    def __init__(self, recipe: Preparation, parts: Sequence[tuple[str, Done]], unread: Sequence[Unread]) -> None:
        """parts: each with the path given that it was found under. unread: what gave no part, such as folders."""
        self._recipe = recipe
        self._parts = [done for _, done in parts]
        self._unread = unread
        blocks = [(root, block) for root, done in parts for block in done.blocks()]
        self._blocks = [block for _, block in blocks]
        rows = [block.rows_D2 for block in self._blocks]
        self._starts = np.cumsum([0, *map(len, rows)])
        self._at_D = np.concatenate([np.empty(0, np.int64), *(block_rows[:, 0] for block_rows in rows)])
        self._characters_D = np.concatenate([np.empty(0, np.int64), *(block_rows[:, 1] for block_rows in rows)])
        self._roots = list(dict.fromkeys(root for root, _ in parts))
        numbers = np.array([self._roots.index(root) for root, _ in blocks], np.int64)
        self._root_D = np.repeat(numbers, np.diff(self._starts))
        self._files: OrderedDict[int, IO[bytes]] = OrderedDict()

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the corpus into `folder`, and `dropped.jsonl.gz`, which has a line for each text that is not in it.

        Gives what the report says of them. Raises ModelworksError where no text is left, ConfigError where the
        weights cannot be had.
        """
        tally = Tally()
        try:
            with gzip.GzipFile(folder / DROPS, "wb", mtime=0) as drops:
                for item in self._unread:
                    drop = Drop(item.source, "read", item.reason.partition(":")[0], item.reason)
                    tally.drop(drop, 0)
                    drops.write(json_line(asdict(drop)))
                for done in self._parts:
                    tally.add(done.tally)
                    drops.write(done.drops())
                kept_D = self._without_duplicates(tally, drops)
            if not kept_D.any():
                raise ModelworksError(f"no text is left: {_why(tally)}")
            writer = Writer(folder, self._recipe.format, self._recipe.file_bytes)
            shares = self._shares(kept_D)
            taken = np.zeros((len(self._roots), 2), np.int64)
            for number in self._order(kept_D, shares):
                characters = int(self._characters_D[number])
                writer.write(self._line(number), characters)
                taken[self._root_D[number]] += (1, characters)
            writer.close()
        finally:
            for file in self._files.values():
                file.close()
        sources = {
            root: {"texts": int(texts), "characters": int(characters)}
            | (asdict(shares[root]) if shares and root in shares else {})
            for root, (texts, characters) in zip(self._roots, taken)
        }
        texts, characters = map(int, taken.sum(0))
        return {
            "texts": texts,
            "characters": characters,
            "sources": sources,
            "steps": tally.to_json(),
            "files": writer.files,
        }

    def _without_duplicates(self, tally: Tally, drops: IO[bytes] | gzip.GzipFile) -> NDArray[np.bool_]:
        """Which texts to keep; the others are counted and noted."""
        duplicates = find_duplicates([block.sketch for block in self._blocks], self._recipe.near_duplicates)
        kept_D = duplicates.first_D == np.arange(len(duplicates.first_D))
        source = lru_cache(maxsize=1024)(lambda number: json.loads(self._line(number))["source"])
        for number in np.flatnonzero(~kept_D).tolist():
            row = json.loads(self._line(number))
            step = "exact duplicates" if duplicates.exact_D[number] else "near duplicates"
            reason = "the words of an earlier text" if duplicates.exact_D[number] else "like an earlier text"
            drop = Drop(row["source"], step, reason, f"see {source(int(duplicates.first_D[number]))}")
            tally.drop(drop, int(self._characters_D[number]), row["text"])
            drops.write(json_line(asdict(drop)))
        for step, passed_D in (("exact duplicates", ~duplicates.exact_D), ("near duplicates", kept_D)):
            tally.keep(step, int(self._characters_D[passed_D].sum()), texts=int(passed_D.sum()))
        return kept_D

    def _shares(self, kept_D: NDArray[np.bool_]) -> dict[str, Share] | None:
        if not self._recipe.weights:
            return None
        available = {
            root: int(self._characters_D[kept_D & (self._root_D == at)].sum()) for at, root in enumerate(self._roots)
        }
        available |= {root: 0 for root in self._recipe.weights if root not in available}
        return plan(
            available, self._recipe.weights, total=self._recipe.characters, most_epochs=self._recipe.most_epochs
        )

    def _order(self, kept_D: NDArray[np.bool_], shares: Mapping[str, Share] | None) -> Iterator[int]:
        if shares is None:
            yield from np.flatnonzero(kept_D).tolist()
            return
        sources = {root: np.flatnonzero(kept_D & (self._root_D == at)).tolist() for at, root in enumerate(self._roots)}
        for _, number in mix(sources, shares, lambda number: int(self._characters_D[number]), seed=self._recipe.seed):
            yield number

    def _line(self, number: int) -> bytes:
        block = int(np.searchsorted(self._starts, number, "right")) - 1
        file = self._files.pop(block, None) or self._blocks[block].open()
        self._files[block] = file  # last, as the one used last
        if len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        file.seek(int(self._at_D[number]))
        return file.readline()


def _why(tally: Tally) -> str:
    """Where all texts went, the most frequent reasons first."""
    reasons = [
        (count, f"{reason} ({count})")
        for step in tally.steps.values()
        for reason, count in step.dropped.items()
        if not reason.endswith("an earlier text")
    ]
    reasons.sort(key=lambda pair: -pair[0])
    return "; ".join(said for _, said in reasons[:4]) or "the paths hold no file"
