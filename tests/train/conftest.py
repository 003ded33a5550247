"""Tiny models and data: a stream of random batches that knows where it is, and tokenised texts on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.core.errors import ConfigError
from modelworks.data.batch import Batch
from modelworks.data.shards import write_shards
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.text.tokenizer import Tokenizer
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


def byte_tokenizer() -> Tokenizer:
    """One token a byte, after the control tokens."""
    control = ("<|endoftext|>", "<|pad|>")
    vocabulary = {token: index for index, token in enumerate([*control, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in control])
    return Tokenizer(backend, eos_id=0, pad_id=1)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and two sets of tokenised data, `train` and `held`, some of whose tokens count more."""
    home = tmp_path_factory.mktemp("workshop")
    tokenizer = byte_tokenizer()
    (home / "tokenizer").mkdir()
    tokenizer.save(home / "tokenizer")
    for name, count in (("train", 60), ("held", 6)):
        with write_shards(home / name, tokenizer) as writer:
            for number in range(count):
                ids = [*tokenizer.encode(f"{number} and {number} are {2 * number}."), 0]
                writer.add(ids, [0.0] * 5 + [1.0] * (len(ids) - 5))
    return home


@pytest.fixture(scope="session")
def overrides(workshop: Path) -> Callable[..., tuple[str, ...]]:
    """What turns a recipe into a run of seconds over the workshop's data."""

    def make(*more: str) -> tuple[str, ...]:
        return (
            "steps=4",
            "evaluate_every=2",
            "save_every=2",
            f'model.tokenizer="{workshop}/tokenizer"',
            "model.config.hidden_size=16",
            "model.config.intermediate_size=32",
            "model.config.num_hidden_layers=2",
            "model.config.num_attention_heads=2",
            "model.config.num_key_value_heads=1",
            "model.config.max_position_embeddings=64",
            f'data.train={{"{workshop}/train" = 1.0}}',
            f'data.held_out="{workshop}/held"',
            "data.seq_len=32",
            "data.batch_size=2",
            "samples.max_tokens=4",
            *more,
        )

    return make
