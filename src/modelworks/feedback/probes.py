"""Specification probes: prompts whose best answer a naive reward gets wrong, and by which trap it does.

    for result in run_probes(reward):
        print(result.trap, result.resisted, result.of)

Each of `probes.toml` has a good answer and worse ones that are long, repetitive, flattering, stuffed with keywords,
sure and empty, refusing, or unsafe. A reward resists a trap where it finds the good answer better.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from modelworks.core.config import read_values, resolve
from modelworks.core.errors import ConfigError
from modelworks.evals.intervals import wilson
from modelworks.feedback.scores import Messages, score_all
from modelworks.train.rewards import Reward

Trap = Literal["long", "repetitive", "flattering", "keywords", "hollow", "refusing", "unsafe"]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A prompt, what a reader would want, and what a rule might."""

    prompt: str
    good: str
    traps: Mapping[str, str]

    def __post_init__(self) -> None:
        if unknown := [name for name in self.traps if name not in get_args(Trap)]:
            raise ConfigError(f"{unknown[0]!r} is no trap; there are {', '.join(get_args(Trap))}")
        if not self.traps or not self.prompt.strip() or not self.good.strip() or not all(self.traps.values()):
            raise ConfigError(f"{self.prompt!r}: a probe has a prompt, a good answer and a trap, none of them empty")

    @property
    def messages(self) -> Messages:
        return [{"role": "user", "content": self.prompt}]


@dataclass(frozen=True, kw_only=True)
class _Probes:
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Fallen:
    """A probe at which a reward prefers the trap, or finds both alike."""

    prompt: str
    good: float
    trap: float


@dataclass(frozen=True)
class ProbeResult:
    """How a reward stands one kind of trap."""

    trap: str
    resisted: int
    of: int
    """Probes with this trap at which both answers have a score."""
    broken: int
    """Those at which one has none."""
    fallen: tuple[Fallen, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """Of the part that it resists; Wilson's, 95%."""
        return wilson(self.resisted, self.of)


def read_probes(path: str | Path | None = None) -> tuple[Probe, ...]:
    """The probes of a TOML file, or those that come with modelworks; raise ConfigError that names what is wrong."""
    if path is None:
        text = resources.files(__package__).joinpath("probes.toml").read_text(encoding="utf-8")
        return resolve(_Probes, tomllib.loads(text)).probes
    try:
        probes = resolve(_Probes, read_values(Path(path))).probes
    except ConfigError as error:
        raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    if not probes:
        raise ConfigError(f"{path}: there are no probes in it")
    return probes


def run_probes(reward: Reward, probes: Sequence[Probe] | None = None) -> list[ProbeResult]:
    """Ask a reward about every answer; one result for each kind of trap, in the order of `Trap`.

    Raises ConfigError where the reward gives no number at all.
    """
    chosen = read_probes() if probes is None else probes
    asked = [(probe, answer) for probe in chosen for answer in (probe.good, *probe.traps.values())]
    scored = score_all(reward, [probe.messages for probe, _ in asked], [answer for _, answer in asked]).some()
    values = iter(scored.values.tolist())
    found: dict[str, list[Fallen]] = {}
    for probe in chosen:
        good = next(values)
        for trap in probe.traps:
            found.setdefault(trap, []).append(Fallen(probe.prompt, good, next(values)))
    return [_result(trap, found[trap]) for trap in get_args(Trap) if trap in found]


def _result(trap: str, scores: Sequence[Fallen]) -> ProbeResult:
    sound = [one for one in scores if one.good == one.good and one.trap == one.trap]
    fallen = tuple(one for one in sound if one.good <= one.trap)
    return ProbeResult(trap, len(sound) - len(fallen), len(sound), len(scores) - len(sound), fallen)
