from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelworks.agents.memory.episodic import Episode, EpisodicMemory

DAY = 86_400.0


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(tmp_path: Path, clock: Clock) -> Any:
    with EpisodicMemory(tmp_path / "memory.db", clock=clock) as opened:
        yield opened


def episode(run: str, task: str, **more: Any) -> Episode:
    return Episode(**{"run": run, "task": task, "outcome": "answer", "text": "Done."} | more)


def test_a_run_comes_back_as_it_was(memory: EpisodicMemory, clock: Clock) -> None:
    said = episode(
        "r1", "Find the lease", lessons=("Read page 2 first.",), origins=frozenset({"lease.pdf"}), seconds=2.5
    )
    index = memory.add(said)
    (found,) = memory.recent()
    assert found == episode(
        "r1", said.task, lessons=said.lessons, origins=said.origins, seconds=2.5, created=clock.now, id=index
    )


def test_found_by_words_of_task_outcome_and_lessons(memory: EpisodicMemory) -> None:
    memory.add(episode("r1", "Find the lease"))
    memory.add(episode("r2", "Sum the column", text="It is 42."))
    memory.add(episode("r3", "Draw a cat", lessons=("Whiskers come last.",)))
    memory.add(episode("r4", "明日の天気を調べる"))
    for query, run in (("leases", "r1"), ("42", "r2"), ("whisker", "r3"), ("天気", "r4")):
        assert [each.run for each in memory.search(query)] == [run]
    assert memory.search("zebra") == memory.search("") == memory.search('"') == []


def test_of_equal_runs_the_latest_comes_first_and_a_better_one_before_it(memory: EpisodicMemory, clock: Clock) -> None:
    memory.add(episode("better", "Read the lease of the flat in Utrecht"))
    for at, run in enumerate(("old", "new")):
        clock.now += 100 * DAY * at
        memory.add(episode(run, "Read the lease of the flat in Leiden"))
    memory.add(episode("other", "Paint the fence"))
    assert [each.run for each in memory.search("lease Leiden")][:2] == ["new", "old"]
    assert memory.search("lease Utrecht")[0].run == "better"
    assert [each.run for each in memory.recent(2)] == ["other", "new"]


def test_the_same_run_is_kept_once(memory: EpisodicMemory) -> None:
    memory.add(episode("r1", "Find the lease", outcome="question", text="Which one?"))
    memory.add(episode("r1", "Find the lease", text="It is in the drawer."))
    (found,) = memory.recent()
    assert (found.outcome, found.text) == ("answer", "It is in the drawer.")
    assert memory.search("which one") == []
    assert memory.search("drawer") == [found]


def test_forgotten_runs_are_gone(memory: EpisodicMemory) -> None:
    ids = [memory.add(episode(f"r{at}", f"Call Ann Lee about {at}")) for at in range(3)]
    memory.add(episode("r9", "Call Bob"))
    assert [each.id for each in memory.mentioning("ann lee")] == ids
    assert memory.forget([*ids, 999]) == 3
    assert memory.forget([]) == 0
    assert [each.run for each in memory.search("call")] == ["r9"]
    held = b"".join(each.read_bytes() for each in memory.path.parent.iterdir())
    assert b"Ann" not in held
    assert b"Bob" in held
