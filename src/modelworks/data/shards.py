"""Tokenised documents on disk: a folder of shards that are mapped into memory, with a manifest that vouches for them.

    manifest.json        what it was made from, counts, and each file's size and SHA-256
    00000.tokens         ids, one after the other: uint16 where the vocabulary allows, else uint32
    00000.offsets        uint64: where in the shard each document begins, and the end
    00000.weights        float32: what each token counts in a loss; there is none where all count 1

All little-endian. A document is in one shard whole. The folder is written aside and appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelworks.core.errors import ConfigError, DataError, ModelFileError
from modelworks.core.lineage import sha256
from modelworks.core.paths import atomic_folder, read_json
from modelworks.data.collate import Encoded, pad_id_of
from modelworks.text.tokenizer import Tokenizer

MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_SHARD_TOKENS: Final = 1 << 25
_MIXED: Final = "another tool's, or of another version of modelworks; make it again with `modelworks data tokenize`"


class Sized(Protocol):
    """Documents by number, of which the lengths are known: what an order can be made of."""

    digest: str
    """Decided by the documents' contents: streams are resumed on the same data only."""
    pad_id: int

    def __len__(self) -> int: ...

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many ids each of some documents has."""
        ...


class Documents(Sized, Protocol):
    """Encoded documents: what rows are made of."""

    def __getitem__(self, index: int) -> Encoded: ...


class MemoryDocuments:
    """`Documents` that are held in memory."""

    def __init__(self, documents: Sequence[tuple[ArrayLike, ArrayLike]], *, pad_id: int = 0) -> None:
        self._documents = [
            Encoded(np.asarray(ids, np.int64), np.asarray(weights, np.float32)) for ids, weights in documents
        ]
        self.pad_id = pad_id
        self._lengths = np.array([len(document.ids) for document in self._documents], np.int64)
        state = hashlib.sha256(self._lengths.tobytes())
        for ids, weights in self._documents:
            if len(ids) != len(weights):
                raise ValueError(f"a document has {len(ids)} ids and {len(weights)} weights")
            state.update(ids.tobytes() + weights.tobytes())
        self.digest = state.hexdigest()

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Encoded:
        return self._documents[index]

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._lengths[indices]


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """What decides a tokenizer's ids: its whole specification and its control tokens."""
    control = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, sorted(tokenizer.stop_ids)]
    return hashlib.sha256(f"{tokenizer.backend.to_str()}\n{control}".encode()).hexdigest()


def vocabulary_digest(tokenizer: Tokenizer) -> str:
    """Which token each id is: what a model and its data have to agree on."""
    vocabulary = sorted(tokenizer.backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def template_digest(tokenizer: Tokenizer) -> str | None:
    """The chat template's SHA-256; None without one."""
    template = tokenizer.chat_template
    return None if template is None else hashlib.sha256(template.encode()).hexdigest()


class ShardWriter:
    """Writes documents into a folder that `write_shards` opened."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, shard_tokens: int) -> None:
        self._folder = folder
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._shard_tokens = shard_tokens
        self._held: list[Encoded] = []
        self._held_tokens = 0
        self.documents = self.tokens = 0
        self._shards: list[dict[str, Any]] = []
        self.note: dict[str, Any] = {}
        """What else the manifest says; set it while writing. `data` is there for the sources and their hashes."""
        self._about = {
            "format": _FORMAT,
            "dtype": self._dtype.str,
            "vocab_size": tokenizer.vocab_size,
            "pad_id": pad_id_of(tokenizer),
            "vocabulary": vocabulary_digest(tokenizer),
            "tokenizer": tokenizer_digest(tokenizer),
            "template": template_digest(tokenizer),
        }

    def add(self, ids: ArrayLike, weights: ArrayLike | None = None) -> None:
        """Append a document; without weights each token counts 1. Raises ValueError for ids beyond the vocabulary."""
        ids_ = np.asarray(ids, np.int64)
        if ids_.size == 0:
            raise ValueError("a document has no tokens")
        if ids_.min() < 0 or ids_.max() >= self._about["vocab_size"]:
            raise ValueError(f"the ids {ids_.min()} to {ids_.max()} are not all in the vocabulary")
        weights_ = np.ones(len(ids_), np.float32) if weights is None else np.asarray(weights, np.float32)
        if weights_.shape != ids_.shape:
            raise ValueError(f"{len(ids_)} ids have weights of shape {weights_.shape}")
        self._held.append(Encoded(ids_.astype(self._dtype), weights_))
        self._held_tokens += len(ids_)
        if self._held_tokens >= self._shard_tokens:
            self._write()

    def _write(self) -> None:
        name = f"{len(self._shards):05d}"
        lengths = np.array([len(document.ids) for document in self._held])
        offsets = np.concatenate([[0], lengths.cumsum()]).astype("<u8")
        parts = {"tokens": np.concatenate([document.ids for document in self._held]), "offsets": offsets}
        weights = np.concatenate([document.weights for document in self._held]).astype("<f4")
        if (weights != 1).any():
            parts["weights"] = weights
        files = {}
        for part, values in parts.items():
            path = self._folder / f"{name}.{part}"
            path.write_bytes(values.tobytes())
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        self._shards.append({"documents": len(self._held), "tokens": int(offsets[-1]), "files": files})
        self.documents += len(self._held)
        self.tokens += int(offsets[-1])
        self._held, self._held_tokens = [], 0

    def finish(self) -> None:
        """Write what is held and the manifest. Raises DataError where there are no documents."""
        if self._held:
            self._write()
        if not self._shards:
            raise DataError("there is nothing to train on: no document was written")
        counts = {"documents": self.documents, "tokens": self.tokens}
        text = json.dumps(self.note | self._about | counts | {"shards": self._shards}, indent=1, ensure_ascii=False)
        (self._folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


@contextmanager
def write_shards(
    folder: str | Path, tokenizer: Tokenizer, *, shard_tokens: int = _SHARD_TOKENS
) -> Iterator[ShardWriter]:
    """Open a folder to write documents into: `with write_shards(...) as writer: writer.add(ids)`.

    It appears when the block ends well, in the place of an older one. Raises ConfigError where `folder` exists and
    holds something other than shards.
    """
    target = Path(folder)
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: it exists and holds no shards; name a new folder")
    with atomic_folder(target) as scratch:
        writer = ShardWriter(scratch, tokenizer, shard_tokens)
        yield writer
        writer.finish()


class Shards:
    """Documents of a folder of shards, mapped into memory: `Documents`, and one stream of tokens over all of them."""

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        """Open a folder. With `verify` every file is read once to compare its hash, about a second a gigabyte.

        Raises DataError for a folder that is no shards, and for a file that is missing, cut or changed, by its name.
        """
        self.folder = Path(folder)
        self.manifest = self._read_manifest()
        try:
            self.pad_id = int(self.manifest["pad_id"])
            dtype = np.dtype(self.manifest["dtype"])
            shards = list(self.manifest["shards"])
            for shard in shards:
                self._check(shard["files"], verify)
            self._tokens = [self._mapped(shard, "tokens", dtype) for shard in shards]
            self._offsets = [self._mapped(shard, "offsets", np.dtype("<u8")) for shard in shards]
            self._weights = [self._mapped(shard, "weights", np.dtype("<f4")) for shard in shards]
            self._ends = np.cumsum([shard["tokens"] for shard in shards], dtype=np.int64)
            self._document_ends = np.cumsum([shard["documents"] for shard in shards], dtype=np.int64)
            hashes = [record["sha256"] for shard in shards for record in shard["files"].values()]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{self.folder / MANIFEST}: {_MIXED}") from error
        for tokens, offsets, shard in zip(self._tokens, self._offsets, shards):
            if len(offsets) != shard["documents"] + 1 or len(tokens) != shard["tokens"]:
                raise DataError(f"{self.folder / MANIFEST}: its counts are not those of {next(iter(shard['files']))}")
        self.digest = hashlib.sha256("\n".join([dtype.str, *hashes]).encode()).hexdigest()

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{self.folder}: no tokenised data, for it has no {MANIFEST}; see `modelworks data`")
        try:
            manifest = read_json(path)
        except ModelFileError as error:
            raise DataError(str(error)) from error
        if manifest.get("format") != _FORMAT or not manifest.get("shards"):
            raise DataError(f"{path}: {_MIXED}")
        return manifest

    def _check(self, files: Mapping[str, Mapping[str, Any]], verify: bool) -> None:
        for name, record in files.items():
            path = self.folder / name
            if not path.is_file():
                raise DataError(f"{path}: the shard is missing; make it again with `modelworks data tokenize`")
            if (size := path.stat().st_size) != record["bytes"]:
                raise DataError(f"{path}: the shard is cut: {size} bytes, {record['bytes']} expected; make it again")
            if verify and sha256(path) != record["sha256"]:
                raise DataError(f"{path}: the shard is damaged: its hash is not the manifest's; make it again")

    def _mapped(self, shard: Mapping[str, Any], part: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        name = next((name for name in shard["files"] if name.endswith(f".{part}")), None)
        if name is None:
            if part != "weights":
                raise KeyError(part)
            return np.broadcast_to(np.float32(1), (shard["tokens"],))
        return np.memmap(self.folder / name, dtype, mode="r")

    def require(self, tokenizer: Tokenizer) -> None:
        """Raise ConfigError where the ids stand for other tokens than this tokenizer's."""
        if self.manifest.get("vocabulary") != vocabulary_digest(tokenizer):
            raise ConfigError(f"{self.folder}: it was tokenised with another tokenizer; tokenise it with this one")

    @cached_property
    def tokens(self) -> int:
        """How many tokens there are in all documents."""
        return int(self._ends[-1])

    def __len__(self) -> int:
        return int(self._document_ends[-1])

    def __getitem__(self, index: int) -> Encoded:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no document {index}; there are {len(self)}")
        shard, at = self._place(index)
        start, end = int(self._offsets[shard][at]), int(self._offsets[shard][at + 1])
        ids = self._tokens[shard][start:end].astype(np.int64)
        return Encoded(ids, np.array(self._weights[shard][start:end], np.float32))

    def _place(self, index: int) -> tuple[int, int]:
        """A document's shard and its number there."""
        shard = int(np.searchsorted(self._document_ends, index, "right"))
        return shard, index - (int(self._document_ends[shard - 1]) if shard else 0)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        shards = np.searchsorted(self._document_ends, indices, "right")
        found = np.empty(len(indices), np.int64)
        for shard in np.unique(shards):
            chosen = shards == shard
            at = indices[chosen] - (int(self._document_ends[shard - 1]) if shard else 0)
            offsets = self._offsets[shard]
            found[chosen] = offsets[at + 1].astype(np.int64) - offsets[at].astype(np.int64)
        return found

    def span(self, start: int, length: int) -> tuple[Encoded, NDArray[np.bool_]]:
        """Tokens of all documents laid end to end, as a ring: `length` of them from the token `start`, over the end on
        to the beginning; and which of them begin a document.
        """
        pieces, begins = [], []
        at, left = start % self.tokens, length
        while left:
            shard = int(np.searchsorted(self._ends, at, "right"))
            low = at - (int(self._ends[shard - 1]) if shard else 0)
            high = min(low + left, len(self._tokens[shard]))
            pieces.append((self._tokens[shard][low:high], self._weights[shard][low:high]))
            begin = np.zeros(high - low, np.bool_)
            offsets = self._offsets[shard]
            first, last = np.searchsorted(offsets, low), np.searchsorted(offsets, high)
            begin[offsets[first : min(last, len(offsets) - 1)].astype(np.int64) - low] = True
            begins.append(begin)
            at, left = (at + high - low) % self.tokens, left - (high - low)
        ids = np.concatenate([ids for ids, _ in pieces]).astype(np.int64)
        return Encoded(ids, np.concatenate([w for _, w in pieces]).astype(np.float32)), np.concatenate(begins)
