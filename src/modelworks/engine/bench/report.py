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
_BUSY = 0.25  # of the processor, that others may take before the start
_OTHERS = 0.15  # and during the run


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
    """cpu, cores, memory_mib, system; load_average (of a minute, before the start), others (the part of the processor's
    time that other programs took during the run, 0 to 1), each None where unknown; busy (either was high)."""
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


@dataclass(frozen=True)
class Watch:
    """The machine from before a run on; `describe` tells of it afterwards."""

    load: float | None
    times: tuple[float, float, float] | None
    """Seconds of all processors: passed, spent on work, and spent on this process and its children."""

    @classmethod
    def begin(cls) -> Watch:
        """Warns where others use the processor already."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        if load is not None and load > _BUSY * _cores():
            warn_once(f"the machine is busy (load average {load:.2f} on {_cores()} cores): figures will be no measure")
        return cls(load, _times())

    def describe(self) -> dict[str, Any]:
        """`Report.machine`; warns where others used the processor during the run."""
        others = None
        if self.times is not None and (now := _times()) is not None:
            passed, worked, own = (after - before for before, after in zip(self.times, now))
            others = min(max((worked - own) / passed, 0.0), 1.0) if passed > 0 else None
        if others is not None and others > _OTHERS:
            warn_once(f"other programs took {others:.0%} of the processor during the run: no side shows what it can do")
        return {
            "cpu": _cpu(),
            "cores": _cores(),
            "memory_mib": _memory_mib(),
            "system": platform.platform(terse=True),
            "load_average": self.load,
            "others": others,
            "busy": (self.load or 0) > _BUSY * _cores() or (others or 0) > _OTHERS,
        }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _times() -> tuple[float, float, float] | None:
    """See `Watch.times`; None where the system does not say (proc(5), /proc/stat; what a host takes counts as work)."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    idle = fields[3] + fields[4]
    return sum(fields) / ticks, (sum(fields) - idle) / ticks, sum(os.times()[:4])


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
        return f"Throughput, {together} at once" if together > 1 else "Throughput, one by one", "tok/s"
    return {
        "decode": ("Decode", "tok/s"),
        "prefill": ("Prefill", "tok/s"),
        "memory": ("Memory", "MiB"),
        "first_token": ("Time to first token", "ms"),
        "memory_batch": (f"Memory, {max(task.concurrency)} at once", "MiB"),
    }[name]
