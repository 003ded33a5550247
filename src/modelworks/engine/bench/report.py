"""What a comparison found, and under which conditions, as one value that is JSON."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelworks.core.lineage import installed_versions, sha256
from modelworks.core.log import warn_once
from modelworks.engine.bench.compare import OWN, Figure, Outcome, Task, higher_is_better

SCHEMA = 1  # grows when a reader of the JSON would have to change
_HASHED = 4 << 30  # bytes of the largest file that is hashed: a few seconds
_BUSY = 0.25  # of a core's time, on average over all, that others may take


@dataclass(frozen=True)
class Measure:
    """One measure of all sides that have it, modelworks first."""

    name: str
    label: str
    unit: str
    higher_is_better: bool
    figures: Mapping[str, Figure]

    @property
    def ratios(self) -> dict[str, float]:
        """How many times better the median of modelworks is than each peer's; below 1, how much worse."""
        return {peer: self._ratio(OWN, peer, "median") for peer in self.figures if peer != OWN}

    @property
    def best_ratios(self) -> dict[str, float]:
        """The same of the best samples."""
        return {peer: self._ratio(OWN, peer, "best") for peer in self.figures if peer != OWN}

    def _ratio(self, ours: str, peer: str, which: str) -> float:
        better, worse = (float(getattr(self.figures[side], which)) for side in (ours, peer))
        return better / worse if self.higher_is_better else worse / better

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratios": self.ratios, "best_ratios": self.best_ratios}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Measures, and what they were measured on; `to_json` is what `modelworks bench --json` writes."""

    model: Mapping[str, Any]
    """ref, name, bytes, sha256 (None for a folder and for a very large file)."""
    machine: Mapping[str, Any]
    """cpu, cores, memory_mib, system, load_average (of a minute, before the start; None where unknown), busy."""
    settings: Mapping[str, Any]
    """The task without its model, and rounds."""
    about: Mapping[str, Mapping[str, str]]
    """What each side says of itself: "version", and how it computes."""
    missing: Mapping[str, str]
    """Peers that are not here, or not to the end, with the reason."""
    same_tokens: Mapping[str, int]
    """By peer, with how many of the decoded tokens it began as modelworks did."""
    measures: Sequence[Measure]
    versions: Mapping[str, str]
    date: str

    def to_json(self) -> dict[str, Any]:
        fields = {name: value for name, value in vars(self).items() if name != "measures"}
        return {"schema": SCHEMA} | fields | {"measures": [measure.to_json() for measure in self.measures]}


def describe_machine() -> dict[str, Any]:
    """What the figures depend on; one warning where others use the processor. To be called before anything is run."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    busy = load is not None and load > _BUSY * cores
    if busy:
        warn_once(f"the machine is busy (load average {load:.2f} on {cores} cores): figures are lower, and less steady")
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_mib": _memory_mib(),
        "system": platform.platform(terse=True),
        "load_average": load,
        "busy": busy,
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    except (AttributeError, ValueError, OSError):
        return None


def describe_model(ref: str, path: Path) -> dict[str, Any]:
    """Which model it was."""
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return {"ref": ref, "name": path.resolve().name, "bytes": size, "sha256": None}
    size = path.stat().st_size
    return {"ref": ref, "name": path.name, "bytes": size, "sha256": sha256(path) if size <= _HASHED else None}


def make_report(
    task: Task,
    outcomes: Mapping[str, Outcome],
    *,
    rounds: int,
    model: Mapping[str, Any],
    machine: Mapping[str, Any],
    missing: Mapping[str, str],
) -> Report:
    """The report of what `compare` returned; measures that modelworks lacks are left out."""
    own = outcomes[OWN]
    measures = []
    for name in task.measures:
        if name not in own.samples:
            continue
        better = higher_is_better(name)
        figures = {
            side: Figure.of(outcome.samples[name], higher_is_better=better)
            for side, outcome in outcomes.items()
            if name in outcome.samples
        }
        label, unit = _label(name, task)
        measures.append(Measure(name, label, unit, better, figures))
    settings = {name: value for name, value in asdict(task).items() if name != "model"}
    return Report(
        model=model,
        machine=machine,
        settings=settings | {"rounds": rounds},
        about={side: outcome.about for side, outcome in outcomes.items() if outcome.about},
        missing=dict(missing) | {side: outcome.fault for side, outcome in outcomes.items() if outcome.fault},
        same_tokens={
            side: _same(own.tokens["decode"], outcome.tokens["decode"])
            for side, outcome in outcomes.items()
            if side != OWN and "decode" in own.tokens and "decode" in outcome.tokens
        },
        measures=measures,
        versions=installed_versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _same(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two answers begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))


def _label(name: str, task: Task) -> tuple[str, str]:
    """A measure's words, and its unit."""
    if name.removeprefix("batch_").isdecimal():
        together = int(name.removeprefix("batch_"))
        return f"Throughput, {together} at once" if together > 1 else "Throughput, one request", "tok/s"
    return {
        "decode": (f"Decode, after {task.context} tokens", "tok/s"),
        "prefill": (f"Prefill, {task.context} tokens", "tok/s"),
        "memory": ("Peak memory, one sequence", "MiB"),
        "first_token": (f"Time to first token, {task.context} tokens", "ms"),
        "memory_batch": (f"Peak memory, {max(task.concurrency)} at once", "MiB"),
    }[name]
