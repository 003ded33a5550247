"""What an audit found, as one HTML page that loads nothing, and the curve of reward against KL as a picture.

audit = Audit("runs/ppo", monitor=watch_run("runs/ppo"), probes=run_probes(reward))
Path("audit.html").write_text(page(audit), encoding="utf-8")
against_kl(audit.monitor).save(Path("curve.svg"))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from modelworks.core.errors import ConfigError
from modelworks.core.page import document, number, table, text, tiles
from modelworks.core.plot import HEIGHT, WIDTH, Axis, Plot, Series, plot
from modelworks.evals.intervals import wilson
from modelworks.feedback.audit import Calibration, LengthBias, RewardBias
from modelworks.feedback.monitor import Finding, Monitor
from modelworks.feedback.probes import ProbeResult
from modelworks.feedback.win_rate import WinRate

_SMALL, _LOW = 440, 370
_CSS = (
    ".charts{margin:.8rem 0}.charts svg{display:block;width:100%;height:auto}"
    ".stop{color:var(--fifth)}.warn{color:var(--second)}.ok{color:var(--third)}td.stop,td.warn{white-space:nowrap}"
)
_SHOWN = 5  # probes that a reward fell for, of each trap
_ABOUT = {
    "distinct": ("Different pairs of words", "of all pairs in an answer"),
    "density": ("What compression leaves", "of each byte of an answer"),
    "length": ("Length", "words of an answer"),
    "same": ("The same for different prompts", "part of the answers"),
    "hollow": ("Saying nothing, and rewarded", "part of the answers"),
}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was looked at; the parts that were not are None or empty."""

    name: str
    monitor: Monitor | None = None
    labels: LengthBias | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Pairs that were not looked at, and why."""
    reward: RewardBias | None = None
    calibration: Calibration | None = None
    wins: WinRate | None = None
    probes: Sequence[ProbeResult] = ()

    @property
    def findings(self) -> Sequence[Finding]:
        return () if self.monitor is None else self.monitor.findings

    def to_json(self) -> dict[str, Any]:
        """All numbers, as JSON has them."""
        parts = {name: getattr(self, name) for name in ("labels", "reward", "calibration", "wins")}
        return {
            "name": self.name,
            "findings": [asdict(finding) for finding in self.findings],
            "left_out": dict(self.left_out),
            **{name: asdict(part) for name, part in parts.items() if part is not None},
            "probes": [
                {"trap": one.trap, "resisted": one.resisted, "of": one.of, "broken": one.broken} for one in self.probes
            ],
        }


def page(audit: Audit) -> str:
    """The page about an audit."""
    title = text(f"Audit of {audit.name}")
    body = [f"<h1>{title}</h1>", _verdict(audit), tiles(list(_facts(audit)))]
    body += [f"<section><h2>{heading}</h2>{part}</section>" for heading, part in _parts(audit) if part]
    return document(title, "\n".join(body), css=_CSS)


def _parts(audit: Audit) -> Iterator[tuple[str, str]]:
    if audit.monitor is not None:
        yield "Findings", _findings(audit.findings)
        yield "Reward and KL", _curves(audit.monitor)
        yield "What the answers look like", _signs(audit.monitor)
    if audit.probes:
        yield "Specification probes", _probes(audit.probes)
    if audit.labels is not None:
        yield "Length in the pairs", _labels(audit.labels, audit.left_out)
    if audit.reward is not None:
        yield "Length in the reward", _reward(audit.reward)
    if audit.calibration is not None:
        yield "Calibration of the reward", _calibration(audit.calibration)
    if audit.wins is not None:
        yield "Against the base", _wins(audit.wins)


def _verdict(audit: Audit) -> str:
    if audit.monitor is None:
        return ""
    if not audit.findings and not audit.monitor.compares:
        steps, window = len(audit.monitor.column("reward")[0]), audit.monitor.recipe.window
        return f'<p class="note">{steps} steps are too few to compare: two windows of {window} are needed.</p>'
    if not audit.findings:
        return '<p class="ok">The monitor has nothing to say about this run.</p>'
    worst = min(audit.findings, key=lambda one: one.severity != "stop")
    return f'<p class="{worst.severity}"><b>{text(worst.name)}</b>: {text(worst.message)}.</p>'


def _facts(audit: Audit) -> Iterator[tuple[str, str, str]]:
    if audit.monitor is not None:
        for name, label in (("reward", "Reward"), ("gold", "Gold"), ("kl", "KL"), ("length", "Length")):
            steps, values = audit.monitor.column(name)
            if values:
                size = min(audit.monitor.recipe.window, len(values))
                start, now = fmean(values[:size]), fmean(values[-size:])
                yield label, f"{now:.3g}", f"at the end; {start:.3g} at the start, {len(steps):,} steps"
    if audit.probes:
        resisted, of = sum(one.resisted for one in audit.probes), sum(one.of for one in audit.probes)
        yield "Traps resisted", f"{resisted} of {of}", "by the reward"
    if audit.labels is not None:
        yield (
            "The longer one wins",
            _share(audit.labels.longer_wins, audit.labels.pairs - audit.labels.even),
            "of pairs",
        )
    if audit.reward is not None:
        yield "Reward is right", _share(audit.reward.right, audit.reward.judged), "of pairs"
    if audit.calibration is not None:
        yield "Calibration error", number(audit.calibration.ece, 3), "ECE"
    if audit.wins is not None:
        yield "Wins at equal length", f"{audit.wins.controlled:.0%}", f"{audit.wins.rate:.0%} as it is"


def _share(part: int, of: int) -> str:
    return f"{part / of:.0%}" if of else "—"


def _between(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def _findings(findings: Sequence[Finding]) -> str:
    rows = []
    for one in findings:
        evidence = "<br>".join(f"{text(name)}: {value:.4g}" for name, value in one.evidence.items())
        rows.append(
            f'<tr><td class="{one.severity}"><b>{text(one.name)}</b><br>{one.severity}<td>{one.step:,}'
            f"<td>{one.since:,}<td>{text(one.message)}<td>{evidence}"
        )
    return table(["What", "Seen at step", "Sound until", "", "Evidence"], rows) if rows else ""


# --- curves -----------------------------------------------------------------------------------------------------------


def against_kl(monitor: Monitor, *, width: int = WIDTH, height: int = HEIGHT) -> Plot:
    """Reward and gold against KL (where that is not told, against steps), each between its lowest and its highest.

    Means of windows, as the monitor compares them; a dashed line is where it saw them part. Raises ConfigError for a
    run that has told of no reward.
    """
    lines = []
    for name, label, role in (("reward", "reward", "own"), ("gold", "gold", "second")):
        x, y = _means(monitor, name)
        if y:
            low, high = min(y), max(y)
            scaled = [(value - low) / (high - low or 1.0) for value in y]
            kind: Any = "line" if len(y) > 1 else "dots"
            lines.append(Series(f"{label}, {low:.3g} to {high:.3g}", x, scaled, kind, role))
    if not lines:
        raise ConfigError("the run has told of no reward yet, so there is no curve to draw")
    axis = "KL from the reference" if monitor.column("kl")[0] else "steps"
    for finding in monitor.findings:
        if finding.name == "parted":
            at = _place(monitor, finding.step)
            lines.append(Series(f"parted, step {finding.step}", [at, at], [0.0, 1.0], "dashed", "fifth", width=1.5))
    size = monitor.recipe.window
    label = f"means of {size} steps, each from its lowest to its highest"
    return plot("Reward and gold against KL", Axis(axis), Axis(label), lines, width=width, height=height)


def _means(monitor: Monitor, name: str) -> tuple[list[float], list[float]]:
    """Windows' mean places and values; what is left at the end is a shorter one."""
    steps, values = monitor.column(name)
    size = monitor.recipe.window
    starts = range(0, len(values), size)
    places = [_place(monitor, step) for step in steps]
    return [fmean(places[at : at + size]) for at in starts], [fmean(values[at : at + size]) for at in starts]


def _place(monitor: Monitor, step: int) -> float:
    """Where on the x axis a step is: its KL, or the last that was told before."""
    steps, values = monitor.column("kl")
    if not steps:
        return float(step)
    before = [value for at, value in zip(steps, values) if at <= step]
    return before[-1] if before else values[0]


def _curves(monitor: Monitor) -> str:
    if not monitor.column("reward")[0]:
        return '<p class="note">No reward is written yet.</p>'
    pictures: list[Plot] = [against_kl(monitor, width=_SMALL, height=_LOW)]
    axis = Axis("KL from the reference" if monitor.column("kl")[0] else "steps")
    for name, title, role in (("reward", "Reward (proxy)", "own"), ("gold", "Gold", "second")):
        steps, values = monitor.column(name)
        if values:
            each = Series("each step", [_place(monitor, step) for step in steps], values, "line", "peer", width=1.0)
            series = [each, Series("windows", *_means(monitor, name), "line", role)]
            pictures.append(plot(title, axis, Axis(""), series, width=_SMALL, height=_LOW))
    return _cards(pictures)


def _signs(monitor: Monitor) -> str:
    pictures = []
    for name, (title, label) in _ABOUT.items():
        steps, values = monitor.column(name)
        if any(values):
            series = [Series("", [float(step) for step in steps], values, "line", "own", width=1.5)]
            pictures.append(plot(title, Axis("steps"), Axis(label), series, width=_SMALL, height=_LOW))
    return _cards(pictures) if pictures else ""


def _cards(pictures: Sequence[Plot]) -> str:
    return f'<div class="charts">{"".join(f"<div class=card>{one.to_element({})}</div>" for one in pictures)}</div>'


# --- tables -----------------------------------------------------------------------------------------------------------


def _probes(results: Sequence[ProbeResult]) -> str:
    rows, details = [], []
    for one in results:
        broken = f"{one.broken} without a score" if one.broken else ""
        rows.append(f"<tr><th>{text(one.trap)}<td>{one.resisted} of {one.of}<td>{_between(one.interval)}<td>{broken}")
        for fallen in one.fallen[:_SHOWN]:
            details.append(
                f"<tr><td>{text(one.trap)}<td>{text(fallen.prompt)}<td>{fallen.good:.4g}<td>{fallen.trap:.4g}"
            )
    head = ["Trap", "The good answer is preferred", "95% interval", ""]
    shown = table(["Trap", "Prompt", "Good answer", "Trap"], details) if details else ""
    more = f"<details><summary>Where it fell, at most {_SHOWN} of each</summary>{shown}</details>" if details else ""
    return table(head, rows) + more


def _labels(bias: LengthBias, left_out: Mapping[str, int]) -> str:
    uneven = bias.pairs - bias.even
    rows = [
        ("Pairs", f"{bias.pairs:,}, of which {bias.even:,} of equal length"),
        ("The longer one is preferred", f"{_share(bias.longer_wins, uneven)} (95%: {_between(bias.interval)})"),
        ("Words of the better answer", f"{bias.length_chosen:.1f}"),
        ("Words of the worse answer", f"{bias.length_rejected:.1f}"),
    ]
    rows += [(f"Left out: {reason}", f"{count:,}") for reason, count in left_out.items()]
    note = '<p class="note">A reward model that is right less often than the longer one wins has learned nothing.</p>'
    return _pairs(rows) + note


def _reward(bias: RewardBias) -> str:
    def of(part: int, whole: int) -> str:
        return f"{part:,} of {whole:,}, {_share(part, whole)} (95%: {_between(wilson(part, whole))})"

    rows = [
        ("Right", of(bias.right, bias.judged)),
        ("Right where the better answer is longer", of(*bias.right_where_longer)),
        ("Right where it is shorter", of(*bias.right_where_shorter)),
        ("Prefers the longer answer", of(bias.prefers_longer, bias.uneven)),
        ("Correlation of score and length", f"{bias.correlation:.3f}"),
        ("The same within pairs", f"{bias.partial:.3f}"),
        ("The same given which is better", f"{bias.given_label:.3f}"),
    ]
    rows += [(f"Without a score: {reason}", f"{count:,}") for reason, count in bias.failures.items()]
    return _pairs(rows)


def _calibration(found: Calibration) -> str:
    rows = [
        ("Right", f"{found.accuracy:.1%} of {found.pairs:,}"),
        ("Expected calibration error", number(found.ece)),
        ("Brier score", f"{found.brier:.4f}; .25 knows nothing"),
        ("Log loss", f"{found.nll:.4f}; .6931 knows nothing"),
    ]
    x = [one.confidence for one in found.bins]
    series = [Series("as stated", [0.5, 1.0], [0.5, 1.0], "dashed", "muted", width=1.5)]
    if len(x) > 1:
        low, high = ([one.interval[end] for one in found.bins] for end in (0, 1))
        series.append(Series("95% interval", x, low, "band", "band", tuple(high)))
    series.append(Series("pairs", x, [one.right for one in found.bins], "dots", "own"))
    picture = plot(
        "Confidence and truth", Axis("confidence of the reward"), Axis("right"), series, width=_SMALL, height=_LOW
    )
    bins = [
        f"<tr><td>{one.confidence:.3f}<td>{one.right:.3f}<td>{_between(one.interval)}<td>{one.pairs:,}"
        for one in found.bins
    ]
    return _pairs(rows) + _cards([picture]) + table(["Confidence", "Right", "95% interval", "Pairs"], bins)


def _wins(found: WinRate) -> str:
    rows = [
        ("Comparisons", f"{found.comparisons:,}"),
        ("Wins as it is", f"{found.rate:.1%} (95%: {_between(found.interval)})"),
        ("Wins at equal length", f"{found.controlled:.1%} (95%: {_between(found.controlled_interval)})"),
        ("Words, and those of the base", f"{found.length:.1f} and {found.base_length:.1f}"),
        ("Log-odds of a win for a typical difference in length", f"{found.slope:.2f}"),
    ]
    return _pairs(rows)


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    return table((), [f"<tr><th>{text(name)}<td>{text(value)}" for name, value in rows])
