"""What is measured of a model that generates, and how: the same code for modelworks and for its peers.

`compare` hands the text of this file to whatever interpreter has a peer, so it takes Python 3.9 and nothing beside the
standard library. Every process measures one model, alone, and prints a line of JSON for each result as soon as it has
it: first `{"about": {...}}`, then `{"measure": NAME, "samples": [...]}`, at last `{"done": true}`.

Tokens are ids, choices are greedy, and no text is made, on all sides.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

STRETCH = 16  # tokens that are decoded between two looks at the clock
USER_ERROR = 3  # the exit status of a process whose standard error ends with what the user can mend
_PERIOD = 24  # tokens after which a prompt repeats itself
BATCH_PROMPT = 64  # tokens of each prompt, at most, where several are answered together


class Subject(Protocol):
    """A loaded model, as the measures use it."""

    vocab_size: int

    def about(self) -> Mapping[str, str]:
        """Versions and the way it computes, for who reads the results; among them "version"."""
        ...

    def clear(self) -> None:
        """Forget the sequence."""
        ...

    def read(self, ids: Sequence[int]) -> int:
        """Append tokens to the sequence; the likeliest next token."""
        ...

    def answer(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """Exactly `count` tokens after each prompt, all prompts together and from nothing."""
        ...


def make_prompt(length: int, vocab_size: int, seed: int = 0) -> list[int]:
    """Token ids that differ from the first on between seeds, so that no cache of prefixes helps.

    They repeat themselves, as models then do too: what comes next is beyond the roundings in which sides differ.
    """
    return [(1 + 37 * (at % _PERIOD) + 1009 * seed) % vocab_size for at in range(length)]


def decode(subject: Subject, context: int, tokens: int) -> tuple[list[float], list[int]]:
    """Tokens a second of one sequence after `context` tokens, stretch by stretch; and the tokens."""
    subject.clear()
    token = subject.read(make_prompt(context, subject.vocab_size))
    speeds, said = list[float](), list[int]()
    for start in range(0, tokens, STRETCH):
        count = min(STRETCH, tokens - start)
        began = time.perf_counter()
        for _ in range(count):
            said.append(token)
            token = subject.read([token])
        speeds.append(count / (time.perf_counter() - began))
    return speeds, said


def prefill(subject: Subject, length: int, passes: int) -> list[float]:
    """Tokens a second through a prompt, from nothing to the logits of its last token; once more to warm up."""
    speeds = []
    for seed in range(passes + 1):
        prompt = make_prompt(length, subject.vocab_size, seed)
        subject.clear()
        began = time.perf_counter()
        subject.read(prompt)
        speeds.append(length / (time.perf_counter() - began))
    return speeds[1:]


def first_token(subject: Subject, length: int, passes: int) -> list[float]:
    """Milliseconds from asking, with a prompt, to its first token; once more to warm up."""
    waits = []
    for seed in range(passes + 1):
        prompt = make_prompt(length, subject.vocab_size, seed)
        began = time.perf_counter()
        subject.answer([prompt], 1)
        waits.append(1000 * (time.perf_counter() - began))
    return waits[1:]


def batch(subject: Subject, together: int, length: int, count: int) -> tuple[float, list[int]]:
    """Tokens a second of so many answers together, from asking to the last token of all; and their tokens."""
    prompts = [make_prompt(length, subject.vocab_size, 100 + seed) for seed in range(together)]
    began = time.perf_counter()
    answers = subject.answer(prompts, count)
    speed = together * count / (time.perf_counter() - began)
    return speed, [token for answer in answers for token in answer]


def peak_mib() -> float | None:
    """The most memory that this process has had resident, in MiB; None where the system does not say."""
    try:  # unlike getrusage's figure, this one does not begin with the parent's
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def results(subject: Subject, task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Measure what a task (`compare.Task`, as a mapping) asks for, one kind after the other."""
    context, kinds, passes = task["context"], task["kinds"], task["passes"]
    subject.read(make_prompt(context, subject.vocab_size, 99))  # memory that is touched for the first time is slow
    if "decode" in kinds:
        speeds, tokens = decode(subject, context, task["tokens"])
        yield {"measure": "decode", "samples": speeds, "tokens": tokens}
    if "prefill" in kinds:
        yield {"measure": "prefill", "samples": prefill(subject, context, passes)}
    if "memory" in kinds and (peak := peak_mib()) is not None:
        yield {"measure": "memory", "samples": [peak]}
    if "first_token" in kinds:
        yield {"measure": "first_token", "samples": first_token(subject, context, passes)}
    if "batch" in kinds:
        length = min(context, BATCH_PROMPT)
        for together in task["concurrency"]:
            speed, tokens = batch(subject, together, length, task["answer"])
            yield {"measure": f"batch_{together}", "samples": [speed], "tokens": tokens}
        if "memory" in kinds and (peak := peak_mib()) is not None:
            yield {"measure": "memory_batch", "samples": [peak]}


def end_with_parent() -> None:
    """End this process, and what it started, when the one that holds the other end of its standard input is gone.

    However that ends, nothing goes on measuring for nobody. Without a pipe there, this does nothing.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def wait() -> None:
        while os.read(0, 1 << 10):
            pass
        if hasattr(os, "getpgrp") and os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run(load: Callable[[Mapping[str, Any]], Subject]) -> None:
    """What a measuring process does: load the model of the task in its last argument, and print each result."""
    end_with_parent()
    task = json.loads(sys.argv[-1])
    # What a library prints must not come between the results.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(line: Mapping[str, Any]) -> None:
        print(json.dumps(line), file=out, flush=True)

    subject = load(task)
    say({"about": dict(subject.about())})
    for result in results(subject, task):
        say(result)
    say({"done": True})
