"""A small model's folder, small tasks, and peers that say what they are told to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelworks.engine.bench.compare import Side, Task
from modelworks.models.llama import Llama
from modelworks.models.save import save

# What a peer's process does: `task` is what it was given, `say` prints a line.
_PROLOGUE = """
import json, os, sys, time
task = json.loads(sys.argv[-1])
def say(**line): print(json.dumps(line), flush=True)
"""


@pytest.fixture(scope="session")
def folder(bare: Llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a context of 48 tokens, and no tokenizer."""
    target = tmp_path_factory.mktemp("bench") / "tiny"
    save(bare, target)
    return target


@pytest.fixture
def make_task(folder: Path) -> Callable[..., Task]:
    def make(**changes: Any) -> Task:
        small = {"context": 8, "tokens": 20, "concurrency": (1, 3), "answer": 4, "passes": 2, "threads": 1}
        return Task(**({"model": str(folder)} | small | changes))

    return make


@pytest.fixture
def fake() -> Callable[[str, str], Side]:
    """A side whose process runs the given code."""
    return lambda name, code: Side(name, (sys.executable, "-c", _PROLOGUE + code))
