"""Text to vectors with a BERT-like encoder: mean over tokens, length 1 (Reimers and Gurevych 2019, arXiv:1908.10084).

Shapes: N texts, B rows of a batch, T tokens, C dimensions.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ModelFileError

if TYPE_CHECKING:
    from modelworks.models.bert import BertEncoder
    from modelworks.text.tokenizer import Tokenizer

DEFAULT_EMBEDDER = "starter-embedder"
MAX_TOKENS = 256
"""What MiniLM was trained to read at once, [CLS] and [SEP] included; the rest of a longer text is not seen."""
BATCH_TOKENS = 4096
"""Tokens of a batch, padding included: large enough to keep a matrix product busy, small enough for the caches."""


class Embedder(Protocol):
    """What a collection needs of a model that makes vectors."""

    @property
    def id(self) -> str:
        """Name and version: vectors of one id are comparable, of two never."""
        ...

    @property
    def dimension(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """The longest text that is read whole, in tokens as `count_tokens` counts."""
        ...

    def count_tokens(self, text: str) -> int: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors e_NC of length 1, in the texts' order."""
        ...


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut texts into batches of similar length: the longest first, each within `budget` tokens once padded.

    Yields indices into `lengths`. A text longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        rows = max(1, budget // max(1, lengths[order[0]]))
        yield order[:rows]
        order = order[rows:]


class EncoderEmbedder:
    """The `Embedder` over one of our own encoders. Nothing is loaded before it is needed, torch last."""

    max_tokens = MAX_TOKENS

    def __init__(self, ref: str = DEFAULT_EMBEDDER) -> None:
        """`ref`: as for `modelworks.load`. A model that cannot be had raises its error on first use."""
        self.ref = ref
        self._lock = threading.RLock()
        self._folder: Path | None = None
        self._id: str | None = None
        self._tokenizer: Tokenizer | None = None
        self._model: BertEncoder | None = None

    def __reduce__(self) -> tuple[type[EncoderEmbedder], tuple[str]]:
        """Travels to another process as its reference; the lock cannot, the model need not."""
        return EncoderEmbedder, (self.ref,)

    @property
    def folder(self) -> Path:
        """The model's folder on disk, fetched on first use."""
        with self._lock:
            if self._folder is None:
                from modelworks.models.fetch import pull

                self._folder = pull(self.ref)
            return self._folder

    @property
    def id(self) -> str:
        """The ref's last part and a hash of the weights, such as "starter-embedder@1f2e3d4c5b6a"."""
        with self._lock:
            if self._id is None:
                files = sorted(self.folder.glob("*.safetensors"))
                if not files:
                    raise ModelFileError(f"{self.folder}: no .safetensors file, so this is no embedder")
                digest = hashlib.blake2b(digest_size=6)
                for path in files:
                    with path.open("rb") as file:
                        digest.update(hashlib.file_digest(file, "blake2b").digest())
                self._id = f"{self.ref.rstrip('/').rsplit('/')[-1]}@{digest.hexdigest()}"
            return self._id

    @property
    def dimension(self) -> int:
        return self.model.config.hidden_size

    @property
    def tokenizer(self) -> Tokenizer:
        with self._lock:
            if self._tokenizer is None:
                from modelworks.text.tokenizer import Tokenizer

                self._tokenizer = Tokenizer.from_folder(self.folder)
            return self._tokenizer

    @property
    def model(self) -> BertEncoder:
        with self._lock:
            if self._model is None:
                from modelworks.models.bert import BertEncoder
                from modelworks.models.load import load

                self._model = load(self.folder, kind=BertEncoder)
            return self._model

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, [CLS] and [SEP] included."""
        return len(self.tokenizer.encode(text))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors e_NC of length 1, in the texts' order."""
        import torch

        model = self.model
        ids = [_cut(row, self.max_tokens) for row in self.tokenizer.encode_batch(texts)]
        vectors_NC = np.zeros((len(ids), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for rows in batches([len(row) for row in ids], BATCH_TOKENS):
                ids_BT = torch.zeros(len(rows), len(ids[rows[0]]), dtype=torch.long)
                mask_BT = torch.zeros_like(ids_BT)
                for b, row in enumerate(rows):
                    ids_BT[b, : len(ids[row])] = torch.tensor(ids[row])
                    mask_BT[b, : len(ids[row])] = 1
                vectors_NC[rows] = model.embed(ids_BT, mask_BT).float().numpy()
        return vectors_NC


def _cut(ids: list[int], limit: int) -> list[int]:
    """At most `limit` ids, the last of which, [SEP], stays."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]
