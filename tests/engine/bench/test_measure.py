"""The measures, on a subject that counts what it is asked, and a clock that it moves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from modelworks.engine.bench import measure
from modelworks.engine.bench.compare import Task


class Counting:
    """Says 1, 2, 3, ...; reading a token takes a second, and a token of an answer two."""

    vocab_size = 97

    def __init__(self) -> None:
        self.now = 0.0
        self.held: list[int] = []
        self.calls: list[tuple[str, object]] = []
        self.said = 0

    def about(self) -> dict[str, str]:
        return {"version": "1"}

    def clear(self) -> None:
        self.held.clear()

    def read(self, ids: Sequence[int]) -> int:
        self.calls.append(("read", (len(self.held), list(ids))))
        self.held += ids
        self.now += len(ids)
        self.said += 1
        return self.said

    def answer(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        self.calls.append(("answer", ([list(prompt) for prompt in prompts], count)))
        self.now += 2 * len(prompts) * count
        return [[prompt[0]] * count for prompt in prompts]


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Counting:
    subject = Counting()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: subject.now)
    return subject


def test_decoding_reads_each_token_after_the_context(subject: Counting) -> None:
    subject.held = [5, 5, 5]
    speeds, tokens = measure.decode(subject, context=10, tokens=40)
    assert speeds == [1.0, 1.0, 1.0]  # 16, 16 and 8 tokens, a second each
    assert tokens == list(range(1, 41))
    (_, (held, prompt)), *steps = subject.calls
    assert (held, len(prompt)) == (0, 10)
    assert [step[1] for step in steps] == [(10 + at, [token]) for at, token in enumerate(tokens)]


def test_every_pass_of_a_prefill_begins_with_nothing_and_another_token(subject: Counting) -> None:
    assert measure.prefill(subject, length=6, passes=3) == [1.0, 1.0, 1.0]
    reads = [call[1] for call in subject.calls]
    assert [held for held, _ in reads] == [0] * 4  # the first warms up
    assert len({prompt[0] for _, prompt in reads}) == 4


def test_a_first_token_is_timed_in_milliseconds(subject: Counting) -> None:
    assert measure.first_token(subject, length=6, passes=2) == [2000.0, 2000.0]
    assert len({prompts[0][0] for _, (prompts, _) in subject.calls}) == 3
    assert {(len(prompts[0]), count) for _, (prompts, count) in subject.calls} == {(6, 1)}


def test_a_batch_counts_the_tokens_of_all_answers(subject: Counting) -> None:
    speed, tokens = measure.batch(subject, together=4, length=6, count=10)
    assert speed == 0.5
    ((_, (prompts, count)),) = subject.calls
    assert tokens == [prompt[0] for prompt in prompts for _ in range(10)]
    assert count == 10
    assert [len(prompt) for prompt in prompts] == [6] * 4
    assert len({prompt[0] for prompt in prompts}) == 4


@pytest.mark.parametrize(
    "kinds", [("decode", "memory"), ("prefill",), ("batch", "first_token"), ("decode", "prefill", "memory", "batch")]
)
def test_results_are_what_the_task_announces(subject: Counting, kinds: tuple[str, ...]) -> None:
    task = Task(model="", threads=1, context=100, tokens=20, concurrency=(1, 2), answer=3, passes=2, kinds=kinds)
    found = list(measure.results(subject, asdict(task)))
    assert tuple(result["measure"] for result in found) == task.measures
    for result in found:
        assert result["samples"]
        assert all(value > 0 for value in result["samples"])
    batches = [value for kind, value in subject.calls if kind == "answer" and value[1] == 3]
    assert [(len(prompts), len(prompts[0])) for prompts, _ in batches] == (
        [(1, measure.BATCH_PROMPT), (2, measure.BATCH_PROMPT)] if "batch" in kinds else []
    )


def in_own_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Code after the text of `measure`, as in a peer's interpreter: without any package that is installed."""
    source = Path(measure.__file__).read_text(encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{source}\n{code}", *arguments], capture_output=True, text=True, timeout=60
    )


def test_peak_memory_is_the_processs_own() -> None:
    done = in_own_process(
        "a = peak_mib()\nb = bytearray(64 << 20)\nb[::4096] = b'1' * (16 << 10)\nprint(a, peak_mib())"
    )
    before, after = map(float, done.stdout.split())
    assert before < 60
    assert 60 < after - before < 80


def test_what_a_library_prints_does_not_come_between_the_results(make_task: Callable[..., Task]) -> None:
    code = """
class Loud:
    vocab_size = 5
    def __init__(self, task):
        print("loading", flush=True)
        os.system("echo from a child")
    def about(self): return {"version": "2"}
    def clear(self): pass
    def read(self, ids): print("reading", flush=True); return 3
    def answer(self, prompts, count): return []
run(Loud)
"""
    task = make_task(kinds=("decode",), tokens=3)
    done = in_own_process(code, json.dumps(asdict(task)))
    about, decode, end = map(json.loads, done.stdout.splitlines())
    assert about == {"about": {"version": "2"}}
    assert (decode["measure"], decode["tokens"]) == ("decode", [3, 3, 3])
    assert end == {"done": True}
    assert {"loading", "from a child", "reading"} <= set(done.stderr.splitlines())
