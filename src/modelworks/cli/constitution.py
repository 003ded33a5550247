"""`modelworks constitution`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from modelworks.cli.terminal import Flag, Json, print_json, print_lines, print_table

if TYPE_CHECKING:
    from modelworks.feedback.constitution import Report


def constitution(
    recipe: Path,
    /,
    *overrides: str,
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    quiet: Flag = False,
    as_json: Json = False,
) -> None:
    """Have a model answer, criticise and revise by written principles, and a judge choose; write data to train on.

    Every step is kept in records.jsonl, behind whose last line the same command goes on where it was stopped.

    Parameters
    ----------
    recipe
        A TOML file with principles, such as recipes/constitution.toml.
    overrides
        What is to differ from it, such as count=200 or 'prompts=["questions.jsonl"]'.
    out
        The folder for records.jsonl, sft.jsonl and pairs.jsonl; runs/ and the recipe's name, where not given.
    quiet
        Show no progress.
    as_json
        Print the report as one JSON object.
    """
    from modelworks.feedback.constitution import constitution as run
    from modelworks.feedback.principles import read_constitution

    read = read_constitution(recipe, overrides)
    folder = out or Path("runs") / recipe.stem
    report = run(read, folder, quiet=quiet)
    if as_json:
        print_json({"folder": str(folder), **report.to_json()})
    else:
        _print(report, "second sample" if read.compare == "samples" else "revision", folder)


def _print(report: Report, second: str, folder: Path) -> None:
    low, high = report.win_interval
    wins = f"{report.revised_wins:,} of {report.judged:,}"
    lines = [
        ("prompts", f"{report.prompts:,}" + (f", {report.repeated:,} came again" if report.repeated else "")),
        (f"{second} preferred", f"{wins} (95%: {low:.0%} to {high:.0%})" if report.judged else "nothing was judged"),
    ]
    if report.judged:
        bias = report.bias
        lines.append(
            (
                "the judge",
                f"prefers what stands first in {bias.first_place:,} of {2 * bias.verdicts:,} choices, "
                f"by {bias.mean:+.2f} log-odds; the order decided {bias.flipped:,} of {bias.verdicts:,} verdicts",
            )
        )
    lines += [(f"fault: {fault}", f"{count:,}") for fault, count in report.faults.most_common()]
    lines += [("sft.jsonl", f"{report.sft:,} rows"), ("pairs.jsonl", f"{report.pairs:,} rows")]
    print_lines(str(folder), lines)
    if report.by_principle:
        rows = [[name, f"{wins:,}", f"{of:,}", ""] for name, (wins, of) in report.by_principle.items()]
        print_table(["judged by", f"{second} preferred", "of", ""], rows)
