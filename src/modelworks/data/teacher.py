"""What a teacher says of each token, kept on disk: its likeliest tokens, so that many epochs and runs ask it once.

A cache is one SQLite file, named by the digest of the teacher's weights, config and tokenizer, of k and of the
temperature: another teacher never answers for this one. A row is found by the digest of its tokens, documents and
positions, so shuffling and other batch sizes find it again, and another packing asks anew.

Shapes: B rows, T tokens, N tokens, n tokens of a chunk, C hidden size, V vocabulary, k cached tokens.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelworks.core.errors import ConfigError, StoreError
from modelworks.data.batch import Batch, BatchStream
from modelworks.data.shards import template_digest, tokenizer_digest
from modelworks.models.base import LanguageModel, evaluating

_CHUNK = 256
_TABLE = "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, ids BLOB NOT NULL, logprobs BLOB NOT NULL)"
_ROW_INPUTS = ("input_ids", "attention_mask", "positions")


class TeacherCache:
    """The teacher's `k` likeliest tokens at each place, at a temperature, for `objectives.distill` without a teacher.

    The temperature must be the objective's. A token takes 6 k + 2 bytes: 32 kept of 1,000,000 tokens are 194 MB.
    Raises ConfigError for a k that the vocabulary does not have, and StoreError where the file is damaged or the disk
    refuses.
    """

    def __init__(self, folder: str | Path, teacher: LanguageModel, *, k: int = 32, temperature: float = 1.0) -> None:
        vocab = teacher.config.vocab_size
        if not 1 <= k <= vocab:
            raise ConfigError(f"k is {k}, expected 1 to the vocabulary's {vocab}")
        if temperature <= 0:
            raise ConfigError(f"temperature is {temperature}, expected above 0")
        self.teacher, self.k, self.temperature = teacher, k, temperature
        self.asked = 0
        """Rows that were not there and that the teacher was asked."""
        key = json.dumps([fingerprint(teacher), k, float(temperature)])
        self.path = Path(folder) / f"teacher-{hashlib.sha256(key.encode()).hexdigest()[:24]}.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_TABLE)

    def add(self, batch: Batch) -> Batch:
        """The batch with `teacher_ids` (B, T, k) and `teacher_logprobs` (B, T, k + 1); unknown rows are asked first."""
        keys = [_row_key(batch, row) for row in range(len(batch["input_ids"]))]
        held = self._held(keys)
        if missing := [row for row, key in enumerate(keys) if key not in held]:
            rows = {name: batch[name][missing] for name in _ROW_INPUTS if name in batch}
            ids_BTk, logprobs_BTk1 = _likeliest(self.teacher, rows, self.k, self.temperature)
            self.asked += len(missing)
            fresh = [
                (keys[row], ids.astype(np.uint32).tobytes(), logprobs.astype(np.float16).tobytes())
                for row, ids, logprobs in zip(missing, ids_BTk.cpu().numpy(), logprobs_BTk1.cpu().numpy(), strict=True)
            ]
            with self._open() as database:
                database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", fresh)
            held |= {key: (ids, logprobs) for key, ids, logprobs in fresh}
        T, device = batch["input_ids"].shape[1], batch["input_ids"].device

        def stacked(part: int, kind: type[np.generic], width: int) -> Tensor:
            values = [np.frombuffer(held[key][part], kind).reshape(T, width) for key in keys]
            return torch.from_numpy(np.stack(values).astype(np.int64 if part == 0 else np.float32)).to(device)

        return {
            **batch,
            "teacher_ids": stacked(0, np.uint32, self.k),
            "teacher_logprobs": stacked(1, np.float16, self.k + 1),
        }

    def _held(self, keys: list[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
        with self._open() as database:
            found = [database.execute("SELECT * FROM rows WHERE key = ?", (key,)).fetchone() for key in keys]
        return {row[0]: row[1:] for row in found if row is not None}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database, for one transaction."""
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}; where it is damaged, remove it, and it is made again") from error


class Taught:
    """A stream of batches with what a teacher says of them: a `BatchStream` over another."""

    def __init__(self, batches: BatchStream, cache: TeacherCache) -> None:
        self._batches, self._cache = batches, cache

    def __iter__(self) -> Iterator[Batch]:
        return map(self._cache.add, self._batches)

    def state(self) -> dict[str, Any]:
        return {"batches": self._batches.state(), "teacher": self._cache.path.stem}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; raise ConfigError for one of another teacher."""
        if state.get("teacher") != self._cache.path.stem:
            raise ConfigError(f"the state is of {state.get('teacher')}, this stream has {self._cache.path.stem}")
        self._batches.restore(state["batches"])


def fingerprint(model: LanguageModel) -> str:
    """A digest of all that decides what a model says of tokens: config, weights, and the tokenizer that made them."""
    digest = hashlib.sha256(json.dumps(model.config.to_hf(), sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    if model.tokenizer is not None:
        digest.update(f"{tokenizer_digest(model.tokenizer)} {template_digest(model.tokenizer)}".encode())
    return digest.hexdigest()


def _row_key(batch: Batch, row: int) -> bytes:
    digest = hashlib.sha256()
    for name in _ROW_INPUTS:
        if name in batch:
            digest.update(name.encode())
            digest.update(batch[name][row].cpu().to(torch.int64).numpy().tobytes())
    return digest.digest()


def _likeliest(teacher: LanguageModel, rows: Batch, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """ids_BTk, and logprobs_BTk1 whose last entry is that of all other tokens together."""

    def readout(x_BTC: Tensor, w_VC: Tensor) -> tuple[Tensor, Tensor]:
        ids, logprobs = [], []
        for x_nC in x_BTC.flatten(0, 1).split(_CHUNK):
            logprobs_nV = ((x_nC @ w_VC.T).float() / temperature).log_softmax(-1)
            top = logprobs_nV.topk(k)
            rest_n = logprobs_nV.scatter_(-1, top.indices, -torch.inf).logsumexp(-1, keepdim=True)
            ids.append(top.indices)
            logprobs.append(torch.cat((top.values, rest_n), -1))
        shape = x_BTC.shape[:2]
        return torch.cat(ids).unflatten(0, shape), torch.cat(logprobs).unflatten(0, shape)

    with torch.no_grad(), evaluating(teacher):
        found: tuple[Tensor, Tensor] = teacher(
            rows["input_ids"],
            positions_BT=rows.get("positions"),
            attention_mask_BS=rows.get("attention_mask"),
            readout=readout,
        )
    return found
