"""llama.cpp, measured for real beside modelworks on the starter model, where an interpreter has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelworks.engine.bench.compare import LLAMA, OWN, Side, Task, compare, find_peers, own
from modelworks.models.base import LanguageModel

# What `make bench NAME=decode` builds, or an interpreter of one's own.
BUILT = Path(__file__).parents[4] / ".venv-bench-decode" / "bin" / "python"


@pytest.fixture
def llama() -> Side:
    python = Path(os.environ.get("MODELWORKS_PEER_PYTHON", BUILT))
    sides, missing = find_peers([python] if python.exists() else [], [LLAMA])
    if missing:
        pytest.skip("no interpreter with llama-cpp-python; MODELWORKS_PEER_PYTHON names one")
    return sides[0]


@pytest.mark.slow
def test_it_measures_the_same_model(llama: Side, smollm: LanguageModel) -> None:
    task = Task(
        model=str(smollm.source), threads=1, context=600, tokens=20, concurrency=(1, 3), answer=4, passes=1
    )  # a prompt of more than one of its batches
    outcomes = compare(task, [own(), llama], rounds=1)
    assert outcomes[LLAMA].fault is None
    assert tuple(outcomes[LLAMA].samples) == task.measures
    # Both round what they compute, each in its way, so they may part where two tokens are nearly as likely.
    ours, theirs = outcomes[OWN].tokens, outcomes[LLAMA].tokens
    assert theirs.keys() == ours.keys()
    assert {name: ids[:5] for name, ids in theirs.items()} == {name: ids[:5] for name, ids in ours.items()}


def test_it_reads_no_folder(llama: Side, make_task: Callable[..., Task]) -> None:
    outcomes = compare(make_task(), [own(), llama], rounds=1)
    assert outcomes[LLAMA].fault == "it ended with status 1: it reads .gguf files only"
