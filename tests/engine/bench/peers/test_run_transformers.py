"""transformers, measured for real beside modelworks on a small model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelworks.engine.bench.compare import OWN, TRANSFORMERS, Task, compare, find_peers, own


def test_it_measures_the_same_model(make_task: Callable[..., Task]) -> None:
    sides, missing = find_peers(wanted=[TRANSFORMERS])
    if missing:
        pytest.skip(missing[TRANSFORMERS])
    task = make_task()
    outcomes = compare(task, [own(), *sides], rounds=1)
    assert outcomes[TRANSFORMERS].fault is None
    assert tuple(outcomes[TRANSFORMERS].samples) == task.measures
    assert outcomes[TRANSFORMERS].tokens == outcomes[OWN].tokens
    assert outcomes[TRANSFORMERS].about["version"].startswith("transformers ")
