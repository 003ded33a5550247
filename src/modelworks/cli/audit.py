"""`modelworks audit`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.terminal import Json, print_json, print_lines
from modelworks.core.errors import ConfigError

if TYPE_CHECKING:
    from modelworks.feedback.audit_report import Audit

_Optional = Annotated[Path | None, Parameter(show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Columns:
    """What the run's metrics call these."""

    reward_metric: str = "reward"
    gold_metric: str = "gold"
    kl_metric: str = "kl"
    length_metric: str = "length"

    def names(self) -> dict[str, str]:
        return {
            "reward": self.reward_metric,
            "gold": self.gold_metric,
            "kl": self.kl_metric,
            "length": self.length_metric,
        }


def audit(
    run: _Optional = None,
    /,
    *,
    pairs: _Optional = None,
    reward: Annotated[str | None, Parameter(show_default=False)] = None,
    probes: _Optional = None,
    wins: _Optional = None,
    window: Annotated[int | None, Parameter(validator=Number(gte=8), show_default=False)] = None,
    columns: Columns = Columns(),
    curve: _Optional = None,
    out: _Optional = None,
    as_json: Json = False,
) -> None:
    """Look for reward hacking in a run, and for what a reward or a set of pairs gets wrong; write a page about it.

    Each part is looked at where it is named. With a reward, its specification is probed, too.

    Parameters
    ----------
    run
        A run's folder: metrics.jsonl, and answers.jsonl where it wrote its answers.
    pairs
        A file of pairs: how far length decides in them, and whether the reward is calibrated on them.
    reward
        length, a rule's TOML file, or package.module:function.
    probes
        A TOML file of probes of your own, in place of those that come with modelworks.
    wins
        JSONL of win (1, 0 or between), answer and base: the win rate at equal length.
    window
        Steps of the run that are compared with as many others; 16, or more for a long run.
    curve
        Draw reward and gold against KL into a .svg, .png or .html file.
    out
        The HTML file; audit.html in the run's folder or here, where not given.
    as_json
        Print what was found as one JSON object.
    """
    from modelworks.core.paths import atomic_file
    from modelworks.core.picture import check_suffix
    from modelworks.feedback.audit_report import against_kl, page

    if run is None and reward is None and pairs is None and wins is None:
        raise ConfigError("there is nothing to look at: name a run, --reward, --pairs or --wins")
    if probes is not None and reward is None:
        raise ConfigError("--probes are asked of a reward: name it by --reward")
    if curve is not None:
        check_suffix(curve)
        if run is None:
            raise ConfigError("--curve is of a run: name its folder")
    found = _looked(run, pairs, reward, probes, wins, window, columns)
    target = out or (run or Path()) / "audit.html"
    html = page(found)
    try:
        with atomic_file(target) as file:
            file.write(html)
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror or error}") from error
    if curve is not None:
        assert found.monitor is not None
        against_kl(found.monitor).save(curve)
    if as_json:
        print_json({"report": str(target), **found.to_json()})
    else:
        print_lines(str(target), _lines(found))


def _looked(
    run: Path | None,
    pairs: Path | None,
    reward: str | None,
    probes: Path | None,
    wins: Path | None,
    window: int | None,
    columns: Columns,
) -> Audit:
    from modelworks.feedback.audit import calibration, length_bias, read_pairs, reward_bias, score_pairs
    from modelworks.feedback.audit_report import Audit
    from modelworks.feedback.probes import read_probes, run_probes
    from modelworks.feedback.scores import read_reward
    from modelworks.feedback.watch import watch_run
    from modelworks.feedback.win_rate import read_wins, win_rate

    found = Audit(name=str(run or reward or pairs or wins))
    if run is not None:
        found = replace(found, monitor=watch_run(run, columns=columns.names(), window=window))
    scorer = None if reward is None else read_reward(reward)
    if scorer is not None:
        found = replace(found, probes=run_probes(scorer, read_probes(probes)))
    if pairs is not None:
        sides, left_out = read_pairs([pairs])
        found = replace(found, labels=length_bias(sides), left_out=left_out)
        if scorer is not None:
            chosen, rejected, failures = score_pairs(scorer, sides)
            found = replace(
                found,
                reward=reward_bias(sides, chosen, rejected, failures),
                calibration=calibration(chosen, rejected),
            )
    if wins is not None:
        found = replace(found, wins=win_rate(*read_wins(wins)))
    return found


def _lines(found: Audit) -> list[tuple[str, str]]:
    lines = [(f"{one.severity}: {one.name}", f"step {one.step}: {one.message}") for one in found.findings]
    if found.monitor is not None and not found.findings:
        window = found.monitor.recipe.window
        said = (
            "nothing is wrong by its tests" if found.monitor.compares else f"shorter than two windows of {window} steps"
        )
        lines.append(("run", said))
    for probed in found.probes:
        broken = f", {probed.broken} without a score" if probed.broken else ""
        lines.append((f"trap: {probed.trap}", f"resisted in {probed.resisted} of {probed.of}{broken}"))
    if (labels := found.labels) is not None:
        uneven = labels.pairs - labels.even
        lines.append(("pairs", f"the longer answer wins {labels.longer_wins:,} of {uneven:,}"))
        lines += [(f"left out: {reason}", f"{count:,} pairs") for reason, count in found.left_out.items()]
    if (reward := found.reward) is not None:
        shorter, of = reward.right_where_shorter
        right = f"right on {reward.right:,} of {reward.judged:,} pairs, where the better one is shorter {shorter:,} of"
        lines.append(("reward", f"{right} {of:,}; correlation with length {reward.partial:.2f} within pairs"))
        lines += [(f"no score: {reason}", f"{count:,} answers") for reason, count in reward.failures.items()]
    if (fit := found.calibration) is not None:
        lines.append(("calibration", f"ECE {fit.ece:.3f}, Brier {fit.brier:.3f}"))
    if (rate := found.wins) is not None:
        low, high = rate.controlled_interval
        controlled = f"{rate.controlled:.1%} at equal length (95%: {low:.1%} to {high:.1%})"
        lines.append(("wins", f"{controlled}, {rate.rate:.1%} as it is"))
    return lines
