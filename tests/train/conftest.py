"""A tiny model, and a stream of random batches that knows where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.data.batch import Batch
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.train.loop import TrainRecipe

VOCAB = 31


class RandomBatches:
    """Batch i is made from i alone. `end` is how many there are; `broken` maps a place to what is done to its batch."""

    def __init__(
        self,
        *,
        rows: int = 2,
        length: int = 8,
        end: int | None = None,
        broken: dict[int, Callable[[Batch], Any]] | None = None,
    ) -> None:
        self.rows, self.length, self.end, self.broken = rows, length, end, broken or {}
        self.at = 0

    def __iter__(self) -> Iterator[Batch]:
        while self.at != self.end:
            generator = torch.Generator().manual_seed(self.at)
            # Each token follows from the one before, mostly, so that there is something to learn.
            first_B1 = torch.randint(0, VOCAB, (self.rows, 1), generator=generator)
            ids_BT = (first_B1 + 3 * torch.arange(self.length + 1)) % VOCAB
            weights_BT = torch.randint(0, 3, (self.rows, self.length), generator=generator) / 2
            batch = {"input_ids": ids_BT[:, :-1], "targets": ids_BT[:, 1:], "weights": weights_BT}
            if self.at in self.broken:
                self.broken[self.at](batch)
            self.at += 1
            yield batch

    def state(self) -> dict[str, Any]:
        return {"at": self.at, "rows": self.rows}

    def restore(self, state: dict[str, Any]) -> None:
        if state["rows"] != self.rows:
            raise ConfigError(f"the batches had {state['rows']} rows")
        self.at = state["at"]


@pytest.fixture
def batches() -> Callable[..., RandomBatches]:
    return RandomBatches


@pytest.fixture
def make_model() -> Callable[..., GPT2]:
    def make(*, seed: int = 0, **changes: Any) -> GPT2:
        shape = {"vocab_size": VOCAB, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 32}
        dropout = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
        torch.manual_seed(seed)
        return GPT2(GPT2Config(**shape | dropout | changes))

    return make


@pytest.fixture
def recipe() -> Callable[..., TrainRecipe]:
    def make(steps: int = 6, **changes: Any) -> TrainRecipe:
        return TrainRecipe(steps=steps, **changes)

    return make
