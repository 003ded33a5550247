"""Which kind of confinement works here: found out once, by really running something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from modelworks.agents.sandbox.kinds import KINDS, Bounds, Kind, Launch, SandboxError, landlock_version, start
from modelworks.agents.sandbox.watch import watch


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found out."""

    reasons: Mapping[Kind, str]
    """Of each kind, why it does not work here; "" where it does."""

    @property
    def kind(self) -> Kind | None:
        """The best that works; None where commands have to be refused."""
        return next((kind for kind in KINDS if not self.reasons[kind]), None)

    def lines(self) -> list[str]:
        """For the user: what commands run under, and why not under something better; a line each."""
        told = [f"sandbox: {kind} does not work: {why}" for kind, why in self.reasons.items() if why]
        working = self.kind
        if working is None:
            return [*told, "sandbox: commands and code are refused"]
        better = told[: KINDS.index(working)]
        version = f" {landlock_version()}" if working == "landlock" else ""
        return [*better, f"sandbox: {working}{version}, seccomp and limits"]


@cache
def probe() -> Probe:
    """Try each kind once; the answer is kept."""
    return Probe({kind: _why_not(kind) for kind in KINDS})


def _why_not(kind: Kind) -> str:
    bounds = Bounds(seconds=10.0)
    try:
        result = watch(start(kind, Launch(["/bin/sh", "-c", "echo confined"], bounds=bounds)), bounds)
    except (SandboxError, OSError) as error:
        return " ".join(str(error).split())
    if result.status == 0 and result.stdout == "confined\n":
        return ""
    said = " ".join(result.stderr.split())[:300]
    return said or f"it ended with status {result.status}" + (f" ({result.killed})" if result.killed else "")
