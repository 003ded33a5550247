"""What the retrieval tests share: a stand-in embedder, and a folder of small documents."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for `import indexer`, also in the processes that tests start

from indexer import WordEmbedder

from modelworks.retrieval.collection import Collection


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents about different things."""
    write(tmp_path / "docs/animals/cats.md", "# Cats\n\nA cat sleeps on the warm windowsill.\n")
    write(tmp_path / "docs/animals/dogs.md", "# Dogs\n\nA dog barks at the postman.\n")
    write(tmp_path / "docs/engines.txt", "A diesel engine compresses air until the fuel ignites.\n")
    return tmp_path / "docs"


@pytest.fixture
def collection(tmp_path: Path, embedder: WordEmbedder) -> Iterator[Collection]:
    with Collection(tmp_path / "collection", embedder) as opened:
        yield opened


@pytest.fixture(name="write")
def write_fixture() -> Callable[[Path, str], Path]:
    return write


def write(path: Path, text: str) -> Path:
    """Write a file with its folders, old enough that its time alone proves it unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    write.calls += 1
    os.utime(path, ns=(write.calls * 10**9, write.calls * 10**9))
    return path


write.calls = 1_000_000_000  # seconds: every write has a time of its own
