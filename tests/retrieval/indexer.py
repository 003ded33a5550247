"""Stand-ins for the embedder and the reader of files, importable in processes that tests start.

As a program, `python indexer.py COLLECTION FOLDER`, it indexes a folder, for tests that kill it or run several at
once; it prints "ready" when all is imported.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import DocumentError
from modelworks.data.document import Document
from modelworks.retrieval import sync
from modelworks.retrieval.chunk import Chunk
from modelworks.retrieval.collection import Collection


class WordEmbedder:
    """Texts that share words are near each other: a sum of random directions, one a word. Counts what it embeds."""

    max_tokens = 72

    def __init__(self, name: str = "words", dimension: int = 96) -> None:
        self.id = name
        self.dimension = dimension
        self.embedded: list[str] = []

    def count_tokens(self, text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text)) + 2

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.embedded += texts
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> NDArray[np.float32]:
        vector = np.full(self.dimension, 1e-3, np.float32)
        for word in re.findall(r"\w+", text.casefold()):
            seed = int.from_bytes(hashlib.blake2b(f"{self.id}/{word}".encode(), digest_size=8).digest(), "big")
            vector += np.random.default_rng(seed).standard_normal(self.dimension, np.float32)
        return vector / np.linalg.norm(vector)


def paragraphs(path: Path) -> tuple[Document, Sequence[Chunk]]:
    """A reader for `Sync`: a chunk a paragraph. Some texts make it fail or take its process with it."""
    text = path.read_text()
    if text.startswith("crash"):
        os.kill(os.getpid(), signal.SIGKILL)
    if text.startswith("broken"):
        raise DocumentError("broken on purpose")
    chunks, start = [], 0
    for part in text.split("\n\n"):
        if part.strip():
            chunks.append(Chunk(start, start + len(part), part.strip()))
        start += len(part) + 2
    return Document(text, (), (), "text/plain"), chunks


if __name__ == "__main__":
    sync._EMBEDDED_AT_ONCE = 16  # many commits, to be killed between
    print("ready", flush=True)
    with Collection(sys.argv[1], WordEmbedder()) as collection:
        collection.sync(sys.argv[2])
