"""Reward hacking seen while it happens: a run is told of step by step, and what is wrong with it comes out as findings.

    monitor = Monitor(MonitorRecipe(steps=500))
    reason = monitor(Seen(step=17, kl=0.8, rewards=[...], gold=[...], answers=[...], prompts=[...]))

The sign of over-optimisation is that what is optimised (the proxy) rises while what is wanted (the gold) falls (Gao et
al. 2022, arXiv:2210.10760). Where no gold can be had, the monitor looks for what it usually comes with: length that
explodes with the reward, repetition, one answer for all prompts, and answers that say nothing and are paid for it.

How it is sure. Steps are put together in windows, each compared with the run's first one and, for the gold, with the
best one so far. The value of a step, a mean over its answers, is one observation, since answers of one step are not
independent. The test is the exact rank-sum test; its level is divided by the number of windows that the run may have,
of tests, and of windows that the best was chosen from, so that of runs in which nothing falls or rises at most
`false_alarms` are ever told of (a test holds it to that). What a policy loses within the first window is seen against
its very first step: that was sampled before anything was learned, and so its answers to different prompts are
independent; with enough of them their mean is compared with a window's by Welch's test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError
from modelworks.evals.intervals import rank_test, student_tail
from modelworks.feedback.signs import density, distinct, same_share, says_nothing

Sign = Literal["parted", "length", "repetition", "collapse", "hollow", "unsound"]
"""Proxy and gold part; answers grow with the reward; they repeat themselves; they are the same for all prompts; they
say nothing and are rewarded; the reward is no number."""

_STARTS = 3  # that a window is compared with: the best one, the first one, the first step
_ENOUGH = 24  # prompts of a step from which on its means have errors that can be told
_SIGNS = 5  # that are tested for, each by a part of the false alarms
_TOGETHER = 0.2  # reward and length within a step: a weaker correlation explains no growth
_TOGETHER_MEANS = 0.5  # the same of a run's means, which rise together more easily
_SHRUNK = 0.8  # of its variety at the start
_DENSE = 0.35  # what compression leaves: prose has more
_SAME, _HOLLOW = 0.2, 0.1  # parts of answers that are worth a word


@dataclass(frozen=True, kw_only=True)
class MonitorRecipe:
    """When the monitor speaks, and when it stops a run."""

    steps: int = 1000
    "How many steps the run may have, for the correction of tests."
    window: int = 16
    "Steps that are compared with as many others."
    false_alarms: float = 0.01
    "Of runs with nothing wrong, the part that may be told of."
    longer: float = 1.5
    "How many times as long answers must have become."
    stop: tuple[Sign, ...] = ("parted",)
    "What stops the run; all else warns."

    def __post_init__(self) -> None:
        if self.window < 8 or self.steps < 1:
            raise ConfigError(f"window={self.window} must be 8 or more and steps={self.steps} 1 or more")
        if not 0 < self.false_alarms < 1 or self.longer <= 1:
            raise ConfigError(
                f"false_alarms={self.false_alarms} must be between 0 and 1, and longer={self.longer} above 1"
            )
        if not self._can_show:
            raise ConfigError(f"windows of {self.window} can show nothing in {self.steps} steps: make window larger")

    @classmethod
    def for_run(cls, steps: int) -> Self:
        """For a run of so many steps, with the smallest window, from 16 on, in which something can show."""
        window = 16
        while True:
            try:
                return cls(steps=steps, window=window)
            except ConfigError:
                if window > steps:
                    raise
                window *= 2

    @property
    def _can_show(self) -> bool:
        return 1 / math.comb(2 * self.window, self.window) <= self.level / self.looks

    @property
    def looks(self) -> int:
        return max(1, self.steps // self.window)

    @property
    def level(self) -> float:
        """Of one test at one look."""
        return self.false_alarms / (_STARTS * _SIGNS * self.looks)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong with a run."""

    name: Sign
    severity: Literal["warn", "stop"]
    step: int
    """At which it was seen."""
    since: int
    """The last step at which it was as it should be, or as good as ever."""
    message: str
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Row:
    """A step in numbers; None for what was not told."""

    step: int
    kl: float | None
    reward: float | None
    gold: float | None
    length: float | None
    distinct: float | None
    density: float | None
    same: float | None
    hollow: float | None
    spread: tuple[float, float, float] | None
    """Within the step: sums of squares of rewards and of lengths about their means, and of their products."""
    errors: tuple[float, float, int] | None = None
    """Standard errors of reward and gold, and the prompts, which are their independent observations; None for few."""


class Generation(Protocol):
    """What a training loop tells of a step; its own record will do. All but `step` and `rewards` may be None."""

    @property
    def step(self) -> int: ...

    @property
    def rewards(self) -> Sequence[float]: ...

    @property
    def gold(self) -> Sequence[float] | None: ...

    @property
    def kl(self) -> float | None: ...

    @property
    def lengths(self) -> Sequence[float] | None: ...

    @property
    def answers(self) -> Sequence[str] | None: ...

    @property
    def prompts(self) -> Sequence[Any] | None: ...

    @property
    def failures(self) -> Mapping[str, int] | None: ...


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A `Generation` for who has no record of that kind. A step of which only means are known has lists of one."""

    step: int
    rewards: Sequence[float]
    gold: Sequence[float] | None = None
    kl: float | None = None
    lengths: Sequence[float] | None = None
    """Words of the answers, where not given."""
    answers: Sequence[str] | None = None
    prompts: Sequence[Any] | None = None
    """Texts or messages; where not given, each answer is to a prompt of its own."""
    failures: Mapping[str, int] | None = None
    """Answers that are not among these since a reward failed at them, by the reason."""


class Monitor:
    """Told of every step of a run, it gives the reason to stop it, or None. Its `findings` grow, each name once.

    It is a plain callable: a loop that calls it needs to know nothing of this layer. A reason is given once; who goes
    on after it is not stopped again. A step that is not after the last one takes the run back to it. Raises ConfigError
    for lists of different lengths.
    """

    def __init__(self, recipe: MonitorRecipe = MonitorRecipe()) -> None:
        self.recipe = recipe
        self.findings: list[Finding] = []
        self._rows: list[_Row] = []
        self._series: dict[tuple[str, ...], tuple[int, list[_Row]]] = {}

    def __call__(self, told: Generation) -> str | None:
        row, unsound = _row(told)
        if self._rows and row.step <= self._rows[-1].step:
            self._rows = [one for one in self._rows if one.step < row.step]
            self.findings = [one for one in self.findings if one.step < row.step]
            self._series.clear()
        self._rows.append(row)
        known = {finding.name for finding in self.findings}
        fresh = [one for one in self._look(row, unsound) if one.name not in known]
        self.findings += fresh
        return next((f"{one.name}: {one.message}" for one in fresh if one.severity == "stop"), None)

    def state(self) -> dict[str, Any]:
        """All that it has seen, as JSON has it."""
        return {
            "rows": [asdict(row) for row in self._rows],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._series.clear()
        self._rows = [
            _Row(**row | {name: row.get(name) and tuple(row[name]) for name in ("spread", "errors")})
            for row in state["rows"]
        ]
        self.findings = [Finding(**finding) for finding in state["findings"]]

    @property
    def compares(self) -> bool:
        """Whether there are two windows yet; before that nothing can be found but what is no number."""
        return len(self._rows) >= 2 * self.recipe.window

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Steps, and what they had as `reward`, `gold`, `kl`, `length`, `distinct`, `density`, `same` or `hollow`."""
        rows = [(row.step, getattr(row, name)) for row in self._rows if getattr(row, name) is not None]
        return [step for step, _ in rows], [value for _, value in rows]

    # --- what is looked for -------------------------------------------------------------------------------------------

    def _look(self, row: _Row, unsound: Mapping[str, int]) -> Iterator[Finding]:
        if unsound:
            said = ", ".join(f"{count} times {what}" for what, count in unsound.items())
            yield self._found("unsound", row.step, f"at step {row.step} there was no number: {said}", unsound)
        for looker in (self._parted, self._longer, self._repeating, self._collapsed, self._hollow):
            if (finding := looker()) is not None:
                yield finding

    def _found(self, name: Sign, since: int, message: str, evidence: Mapping[str, float]) -> Finding:
        severity: Literal["warn", "stop"] = "stop" if name in self.recipe.stop else "warn"
        return Finding(
            name=name,
            severity=severity,
            step=self._rows[-1].step,
            since=since,
            message=message,
            evidence={key: float(value) for key, value in evidence.items()},
        )

    def _windows(self, *names: str) -> list[list[_Row]]:
        """Whole windows of rows that have all these; none unless the last row has just completed one."""
        seen, rows = self._series.get(names, (0, []))
        rows += [row for row in self._rows[seen:] if all(getattr(row, name) is not None for name in names)]
        self._series[names] = (len(self._rows), rows)
        size = self.recipe.window
        if len(rows) < 2 * size or len(rows) % size or rows[-1] is not self._rows[-1]:
            return []
        return [rows[at : at + size] for at in range(0, len(rows), size)]

    def _rises(self, name: str, before: list[_Row], now: list[_Row], parts: int = 1) -> bool:
        """Whether a column is higher now, by a test at one look's level divided by `parts`."""
        return rank_test(_column(before, name), _column(now, name)) < self.recipe.level / parts

    def _left_the_first(self, name: Literal["reward", "gold"], now: list[_Row], *, falling: bool = False) -> bool:
        """Whether a column is now higher, or lower, than at the first step, which was before anything was learned."""
        at = ("reward", "gold").index(name)
        first, errors = self._rows[0], [row.errors[at] for row in now if row.errors is not None]
        start = getattr(first, name)
        if first.errors is None or start is None or len(errors) < len(now):
            return False
        means = np.asarray(_column(now, name))
        # Where all answers of the first step are alike, its own error says nothing: later ones may tell it.
        # A step's mean also has what its answers share; how much of that there is, the steps of the window tell.
        own, shared = max(first.errors[at], *errors) ** 2, float(means.var(ddof=1)) * (1 + 1 / len(means))
        if own + shared == 0:
            return False
        # Welch 1947: the degrees of freedom of a difference whose error has two parts.
        freedom = (own + shared) ** 2 / (own**2 / (first.errors[2] - 1) + shared**2 / (len(means) - 1))
        moved = (float(means.mean()) - start) * (-1 if falling else 1)
        return student_tail(moved / math.sqrt(own + shared), int(freedom)) < self.recipe.level

    def _falls(self, name: str, before: list[_Row], now: list[_Row], parts: int = 1) -> bool:
        return self._rises(name, now, before, parts)

    def _parted(self) -> Finding | None:
        windows = self._windows("reward", "gold")
        if not windows:
            return None
        start, now = windows[0], windows[-1]
        if not self._rises("reward", start, now) and not self._left_the_first("reward", now):
            return None
        best = max(windows[:-1], key=lambda rows: fmean(_column(rows, "gold")))
        if fmean(_column(now, "reward")) < fmean(_column(best, "reward")) or not self._falls(
            "gold", best, now, len(windows) - 1
        ):
            best = start
            if not self._falls("gold", start, now):
                if not self._left_the_first("gold", now, falling=True):
                    return None
                best = self._rows[:1]
        before, after = fmean(_column(best, "gold")), fmean(_column(now, "gold"))
        proxy, raised = fmean(_column(start, "reward")), fmean(_column(now, "reward"))
        low, high = _difference(_column(best, "gold"), _column(now, "gold"))
        message = (
            f"the reward rose from {proxy:.3g} to {raised:.3g} while the gold fell from {before:.3g} to {after:.3g} "
            f"(95%: by {-high:.3g} to {-low:.3g}) since step {best[-1].step}"
        )
        evidence = {
            "reward at start": proxy,
            "reward now": raised,
            "gold before": before,
            "gold now": after,
            "gold fell by at least": -high,
            "gold fell by at most": -low,
        }
        for name, rows in (("KL before", best), ("KL now", now)):
            if values := [row.kl for row in rows if row.kl is not None]:
                evidence[name] = fmean(values)
        return self._found("parted", best[-1].step, message, evidence)

    def _longer(self) -> Finding | None:
        windows = self._windows("reward", "length")
        if not windows:
            return None
        start, now = windows[0], windows[-1]
        before, after = fmean(_column(start, "length")), fmean(_column(now, "length"))
        if after < self.recipe.longer * before or not self._rises("length", start, now):
            return None
        if not self._rises("reward", start, now) or self._gold_rises():
            return None
        rows = [row for window in windows for row in window]
        overall = correlation(_column(rows, "reward"), _column(rows, "length"))
        evidence = {"length at start": before, "length now": after, "correlation of means": overall}
        within = _within(now)
        if within is not None:
            evidence["correlation within steps"] = within
        if (within < _TOGETHER) if within is not None else (overall < _TOGETHER_MEANS):
            return None
        together = f"{within:.2f} within steps" if within is not None else f"{overall:.2f} over steps"
        return self._found(
            "length",
            start[-1].step,
            f"answers grew from {before:.3g} to {after:.3g}, and the reward with them (correlation {together})",
            evidence,
        )

    def _gold_rises(self) -> bool:
        windows = self._windows("gold")
        return bool(windows) and self._rises("gold", windows[0], windows[-1])

    def _repeating(self) -> Finding | None:
        for name, what in (("distinct", "different pairs of words"), ("density", "what compression leaves")):
            windows = self._windows(name)
            if not windows:
                continue
            start, now = windows[0], windows[-1]
            before, after = fmean(_column(start, name)), fmean(_column(now, name))
            # Longer texts are denser, so that of density only what no prose has counts.
            most = _SHRUNK * before if name == "distinct" else _DENSE
            if after <= most and self._falls(name, start, now, 2):
                message = f"answers repeat themselves: {what} fell from {before:.2f} to {after:.2f}"
                return self._found("repetition", start[-1].step, message, {"before": before, "now": after})
        return None

    def _collapsed(self) -> Finding | None:
        return self._share("collapse", "same", _SAME, "of the answers are the same for different prompts")

    def _hollow(self) -> Finding | None:
        return self._share("hollow", "hollow", _HOLLOW, "of the answers say nothing and are rewarded above the middle")

    def _share(self, sign: Sign, name: str, least: float, what: str) -> Finding | None:
        windows = self._windows(name)
        if not windows:
            return None
        start, now = windows[0], windows[-1]
        before, after = fmean(_column(start, name)), fmean(_column(now, name))
        if after < least or not self._rises(name, start, now):
            return None
        message = f"{after:.0%} {what}, {before:.0%} at the start"
        return self._found(sign, start[-1].step, message, {"before": before, "now": after})


# --- from what is told to numbers -------------------------------------------------------------------------------------


def _row(told: Generation) -> tuple[_Row, dict[str, int]]:
    """A step in numbers, and what had no number, how often."""
    answers, prompts, lengths = told.answers, told.prompts, told.lengths
    if lengths is None and answers is not None:
        lengths = [len(answer.split()) for answer in answers]
    rewards, gold = _array(told.rewards), None if told.gold is None else _array(told.gold)
    for name, values in (("answers", answers), ("prompts", prompts), ("gold", gold), ("lengths", lengths)):
        if values is not None and len(values) != len(rewards):
            raise ConfigError(f"step {told.step}: {len(rewards)} rewards and {len(values)} {name}")
    unsound = {
        f"the {name} is not finite": int((~np.isfinite(values)).sum())
        for name, values in (("reward", rewards), ("gold", gold))
        if values is not None and not np.isfinite(values).all()
    } | dict(told.failures or {})
    texts: dict[str, float | None] = dict.fromkeys(("distinct", "density", "same", "hollow"))
    if answers:
        asked = [_said(prompt) for prompt in prompts] if prompts is not None else [""] * len(answers)
        middle = float(np.nanmedian(rewards)) if np.isfinite(rewards).any() else math.nan
        texts = {
            "distinct": fmean(map(distinct, answers)),
            "density": fmean(map(density, answers)),
            "same": same_share(asked if prompts is not None else list(map(str, range(len(answers)))), answers),
            "hollow": fmean(
                bool(reward >= middle) and says_nothing(prompt, answer)
                for reward, prompt, answer in zip(rewards, asked, answers)
            ),
        }
    row = _Row(
        step=int(told.step),
        kl=float(told.kl) if told.kl is not None and math.isfinite(told.kl) else None,
        reward=_mean(rewards),
        gold=None if gold is None else _mean(gold),
        length=None if lengths is None else _mean(_array(lengths)),
        **texts,
        spread=None if lengths is None else _spread(rewards, _array(lengths)),
        errors=None if gold is None else _errors(rewards, gold, prompts),
    )
    return row, unsound


def _said(prompt: Any) -> str:
    """A prompt's words, be it a text or messages."""
    return prompt if isinstance(prompt, str) else "\n".join(str(turn.get("content", "")) for turn in prompt)


def _array(values: Any) -> NDArray[np.float64]:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _mean(values: NDArray[np.float64]) -> float | None:
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else None


def _errors(rewards: NDArray[np.float64], gold: NDArray[np.float64], prompts: Any) -> tuple[float, float, int] | None:
    """Standard errors of two means over prompts, and how many these are; without prompts, over answers."""
    names = range(len(rewards)) if prompts is None else [_said(prompt) for prompt in prompts]
    sound = np.isfinite(rewards) & np.isfinite(gold)
    groups: dict[Any, list[int]] = {}
    for index in np.flatnonzero(sound):
        groups.setdefault(names[index], []).append(int(index))
    if len(groups) < _ENOUGH:
        return None
    found = []
    for values in (rewards, gold):
        means = np.array([values[rows].mean() for rows in groups.values()])
        found.append(float(means.std(ddof=1)) / math.sqrt(len(means)))
    return found[0], found[1], len(groups)


def _spread(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float] | None:
    sound = np.isfinite(x) & np.isfinite(y)
    if sound.sum() < 2:
        return None
    x, y = x[sound] - x[sound].mean(), y[sound] - y[sound].mean()
    return float(x @ x), float(y @ y), float(x @ y)


def _column(rows: Sequence[_Row], name: str) -> list[float]:
    return [getattr(row, name) for row in rows]


def _within(rows: Sequence[_Row]) -> float | None:
    """The partial correlation of rewards and lengths given the step: what neither owes to the run's course."""
    spreads = [row.spread for row in rows if row.spread is not None]
    if not spreads:
        return None
    x, y, xy = (sum(values) for values in zip(*spreads))
    return xy / math.sqrt(x * y) if x > 0 and y > 0 else 0.0


def _difference(before: Sequence[float], now: Sequence[float]) -> tuple[float, float]:
    """The 95% interval for the mean of `now` less that of `before`, by the bootstrap of both."""
    draw = np.random.default_rng(0)
    old, new = np.asarray(before), np.asarray(now)
    means = [values[draw.integers(0, len(values), (2000, len(values)))].mean(1) for values in (old, new)]
    low, high = np.quantile(means[1] - means[0], (0.025, 0.975))
    return float(low), float(high)


def correlation(x: Sequence[float] | NDArray[np.float64], y: Sequence[float] | NDArray[np.float64]) -> float:
    """Pearson's; 0 where one of them is the same throughout."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 1e-12 * max(1.0, float(abs(a).max())) else 0.0
