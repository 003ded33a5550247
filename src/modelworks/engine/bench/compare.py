"""One task measured on several sides in turn, each time in a new process: modelworks first, then its peers.

A peer is a package or a program that the user has; it is measured in its own interpreter, and nothing here imports it.
Of a peer that fails, hangs or says what is no result, the rest is left out, with the reason in one line.
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.core.log import Advance
from modelworks.engine.bench.measure import USER_ERROR

OWN = "modelworks"
LLAMA, TRANSFORMERS = "llama.cpp", "transformers"
PEERS = (LLAMA, TRANSFORMERS)
KINDS = ("decode", "prefill", "memory", "first_token", "batch")
_REASON = 200  # characters of a reason
_LINGER = 10.0  # seconds for a process to end after its last line
_INSTALL = {LLAMA: "llama-cpp-python", TRANSFORMERS: "transformers"}
_PROBE = """
import importlib.util, json
have = lambda *names: all(importlib.util.find_spec(name) for name in names)
print(json.dumps({"llama.cpp": have("llama_cpp", "numpy"), "transformers": have("transformers", "torch")}))
"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every side is asked to measure, with the same threads. `model` is a path; the counts are of tokens."""

    model: str
    threads: int
    context: int = 512
    """The prompt that is read, and what decoding goes on from."""
    tokens: int = 128
    """Decoded by one sequence."""
    concurrency: tuple[int, ...] = (1, 4, 16)
    """How many prompts are answered together."""
    answer: int = 32
    """Tokens of each of those answers."""
    passes: int = 3
    """How often a process reads the prompt, and waits for a first token."""
    kinds: tuple[str, ...] = KINDS
    weights: str | None = None
    """Pack our weights to "q8" or "q4"; what a peer computes is its own."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what a side reports, in its order."""
        names = [kind for kind in KINDS if kind in self.kinds and kind != "batch"]
        if "batch" in self.kinds:
            names += [f"batch_{together}" for together in self.concurrency]
            names += ["memory_batch"] if "memory" in self.kinds else []
        return tuple(names)


@dataclass(frozen=True)
class Side:
    """One that is measured: the command of its process, to which the task is appended."""

    name: str
    command: tuple[str, ...]


@dataclass
class Outcome:
    """What a side has reported, over all rounds."""

    about: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    """By the measure's name, in the order in which they came."""
    tokens: dict[str, list[int]] = field(default_factory=dict)
    """By measure, the tokens that it computed in the first round, where it says so."""
    fault: str | None = None
    """Why the rest is missing, in one line."""


@dataclass(frozen=True)
class Figure:
    """A side's samples of one measure, in short."""

    median: float
    best: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float], *, higher_is_better: bool) -> Figure:
        return cls(statistics.median(samples), (max if higher_is_better else min)(samples), tuple(samples))


def higher_is_better(measure: str) -> bool:
    """Whether a measure is a speed; the others are times and memory."""
    return measure in ("decode", "prefill") or measure.removeprefix("batch_").isdecimal()


# --- the sides --------------------------------------------------------------------------------------------------------


def own() -> Side:
    """This installation. `-P` keeps what lies in the working folder from being imported."""
    return Side(OWN, (sys.executable, "-P", "-m", "modelworks.engine.bench.own"))


def find_peers(pythons: Sequence[Path] = (), wanted: Sequence[str] = PEERS) -> tuple[list[Side], dict[str, str]]:
    """The wanted peers that there are, and for the others why not, in one line each.

    Looked for in each of `pythons`, then in this interpreter, and for llama.cpp at last as the program `llama-bench`.
    Raises ConfigError for one of `pythons` that is no interpreter.
    """
    found: dict[str, Side] = {}
    for python in (*map(str, pythons), sys.executable):
        has = _probe(python)
        for name, script in ((LLAMA, "run_llama_cpp.py"), (TRANSFORMERS, "run_transformers.py")):
            if has.get(name) and name not in found:
                found[name] = Side(name, (python, "-c", _script(script)))
    if LLAMA not in found and (program := shutil.which("llama-bench")):
        found[LLAMA] = Side(LLAMA, (sys.executable, "-c", _script("run_llama_bench.py"), program))
    missing = {
        name: f"not found; `pip install {_INSTALL[name]}`, or name an interpreter that has it with --peer-python"
        for name in wanted
        if name not in found
    }
    return [found[name] for name in wanted if name in found], missing


def _probe(python: str) -> dict[str, bool]:
    try:
        done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60)
        return dict(json.loads(done.stdout))
    except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{python} does not run as a Python interpreter: name its bin/python") from error


def _script(name: str) -> str:
    """A peer's program for `python -c`, with `measure` as a module beside it."""
    folder = files("modelworks.engine.bench")
    measure, peer = (part.read_text("utf-8") for part in (folder / "measure.py", folder / "peers" / name))
    return (
        "import sys, types\n"
        "sys.path = [folder for folder in sys.path if folder]\n"  # not what lies in the working folder
        "sys.modules['measure'] = module = types.ModuleType('measure')\n"
        f"exec(compile({measure!r}, 'measure.py', 'exec'), module.__dict__)\n"
        f"exec(compile({peer!r}, {name!r}, 'exec'), {{'__name__': '__main__'}})\n"
    )


# --- measuring --------------------------------------------------------------------------------------------------------


class _PeerError(Exception):
    """A process gave no whole result; the message is the reason."""


def compare(
    task: Task, sides: Sequence[Side], *, rounds: int, patience: float = 600.0, advance: Advance | None = None
) -> dict[str, Outcome]:
    """Measure every side once a round, in turn; what they reported, by name.

    A process may be silent for `patience` seconds. `advance` hears of every measure: `len(sides) * rounds *
    len(task.measures)` in all. Raises ModelworksError where modelworks itself fails.
    """
    outcomes = {side.name: Outcome() for side in sides}
    for _ in range(rounds):
        for side in sides:
            outcome = outcomes[side.name]
            left = len(task.measures)
            if outcome.fault is None:
                try:
                    with closing(_lines(side, task, patience)) as lines:
                        for line in lines:
                            taken = _keep(outcome, line)
                            left -= taken
                            if advance:
                                advance(taken, note=side.name)
                except _PeerError as error:
                    if side.name == OWN:
                        said = str(error)
                        raise ModelworksError(said if task.model in said else f"{task.model}: {said}") from None
                    outcome.fault = str(error)
            if advance:
                advance(left)
    return outcomes


def _keep(outcome: Outcome, line: Mapping[str, Any]) -> int:
    """Take a line into an outcome; how many measures it is."""
    if "about" in line:
        outcome.about = dict(line["about"])
    if "measure" not in line:
        return 0
    outcome.samples.setdefault(line["measure"], []).extend(line["samples"])
    if "tokens" in line:
        outcome.tokens.setdefault(line["measure"], list(line["tokens"]))
    return 1


def _lines(side: Side, task: Task, patience: float) -> Generator[dict[str, Any], None, None]:
    """What one measuring process says, until it is done. Raises _PeerError where that is too soon.

    No process is left behind, nor what it started.
    """
    threads = dict.fromkeys(("MODELWORKS_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(task.threads))
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [*side.command, json.dumps(asdict(task))],
                stdin=subprocess.PIPE,  # which ends with this process: see `measure.end_with_parent`
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | threads | {"HF_HUB_OFFLINE": "1"},
                start_new_session=True,
            )
        except OSError as error:
            raise _PeerError(f"it cannot be started: {error.strerror or error}") from None
        said: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(process, said), daemon=True).start()
        left = set(task.measures)
        try:
            while True:
                try:
                    raw = said.get(timeout=patience)
                except queue.Empty:
                    raise _PeerError(f"it said nothing for {patience:g} seconds") from None
                if not raw:
                    raise _PeerError(_end(process, errors, own=side.name == OWN))
                line = _parse(raw, left)
                if "done" in line:
                    return
                left.discard(line.get("measure", ""))
                yield line
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def _listen(process: subprocess.Popen[bytes], said: queue.SimpleQueue[bytes]) -> None:
    """Pass on a process's lines, and at last an empty one."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            said.put(line)
    said.put(b"")


def _end(process: subprocess.Popen[bytes], errors: IO[bytes], *, own: bool) -> str:
    """Why a process ended before it was done: the last line of its standard error."""
    try:
        status = process.wait(_LINGER)
    except subprocess.TimeoutExpired:
        return "it stopped reporting"
    errors.seek(0)
    lines = errors.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if own and status == USER_ERROR:
        return last
    return _short(f"it ended with status {status}" + (f": {last}" if last else ""))


def _parse(raw: bytes, measures: Collection[str]) -> dict[str, Any]:
    """A line of a process. Raises _PeerError for what is no result, or none of the `measures` that are left."""
    try:
        line = json.loads(raw)
        if line.keys() == {"done"}:
            return dict(line)
        if line.keys() == {"about"} and all(isinstance(part, str) for pair in line["about"].items() for part in pair):
            return dict(line)
        samples = line["samples"]
        numbers = all(isinstance(value, int | float) and math.isfinite(value) and value > 0 for value in samples)
        ids = isinstance(line.get("tokens", []), list)
        if line["measure"] in measures and samples and numbers and ids:
            return dict(line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise _PeerError(_short(f"it printed what is no result: {raw.decode(errors='replace').strip()!r}"))


def _short(text: str) -> str:
    return text if len(text) <= _REASON else text[: _REASON - 1] + "…"
