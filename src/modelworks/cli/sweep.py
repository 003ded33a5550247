"""`modelworks sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from modelworks.cli.terminal import Flag, Json, note, print_json, print_table, stdout
from modelworks.core.log import progress
from modelworks.core.units import amount, duration

if TYPE_CHECKING:
    from modelworks.scaling.sweep import SweepRun
    from modelworks.train.record import Record
    from modelworks.train.sweep import SweepReport


def sweep(
    recipe: Path,
    /,
    *overrides: str,
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    plan_only: Annotated[bool, Parameter(name="--plan", show_default=False)] = False,
    quiet: Flag = False,
    as_json: Json = False,
) -> None:
    """Train small models of many sizes, fit the law of their losses, and predict the largest from the others.

    What was trained stays: the same command goes on where it was stopped.

    Parameters
    ----------
    recipe
        A TOML file, such as recipes/sweep.toml.
    overrides
        What is to differ from it, such as hours=1 or run.optim.lr=5e-3.
    out
        The sweep's folder; runs/ and the recipe's name, where not given.
    plan_only
        Say what would be trained, and train nothing.
    quiet
        Print the result alone.
    as_json
        Print JSON instead of tables.
    """
    from modelworks.train.sweep import make_plan, read_sweep, report
    from modelworks.train.sweep import sweep as train_sweep

    read = read_sweep(recipe, overrides)
    if plan_only:
        planned = make_plan(read)
        if as_json:
            print_json([asdict(run) for run in planned])
        else:
            _print_plan(planned)
        return
    folder = out or Path("runs") / recipe.stem
    with progress("sweep", None, quiet=quiet) as advance:

        def watch(run: SweepRun, record: Record) -> None:
            advance(note=f"{run.name}: step {record.step.step} of {record.steps}")

        for row in train_sweep(read, folder, watch=watch):
            if not quiet:
                done = f"{amount(row.parameters)} parameters, {amount(row.tokens)} tokens"
                note(f"{row.run}: {done}, loss {row.loss:.4f} after {duration(row.seconds)}")
    found = report(read, folder)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "parameters": found.law.parameters(),
                "counting": found.law.counting,
                "exponents": {approach: list(values) for approach, values in sorted(found.exponents.items())},
                "left_out": dict(found.left_out),
                "predictions": [asdict(one) | {"within": one.within} for one in found.predictions],
            }
        )
        return
    _print_report(found)
    print(folder)


def _print_plan(planned: Sequence[SweepRun]) -> None:
    rows = [
        [
            run.name,
            amount(run.parameters),
            str(run.config["num_hidden_layers"]),
            str(run.config["hidden_size"]),
            amount(run.tokens),
            f"{run.flops:.2e}",
        ]
        for run in planned
    ]
    print_table(["run", "parameters", "layers", "width", "tokens", "FLOPs"], rows)


def _print_report(found: SweepReport) -> None:
    out = stdout()
    counted = "in all" if found.law.counting == "total" else found.law.counting
    out.print(f"The law of {found.law.rows} runs; N counts parameters {counted}")
    rows = []
    for name, value in found.law.parameters().items():
        low, high = found.law.interval(lambda law, name=name: getattr(law, name))  # type: ignore[misc]
        rows.append([name, f"{value:.4g}", f"{low:.4g} to {high:.4g}"])
    print_table(["", "fitted", "95% interval"], rows)
    for approach, (a, low, high) in sorted(found.exponents.items()):
        out.print(f"approach {approach}: the best size grows as C^{a:.3f} ({low:.3f} to {high:.3f})")
    for approach, reason in sorted(found.left_out.items()):
        note(f"approach {approach} is left out: {reason}")
    for one in found.predictions:
        low, high = one.interval
        out.print(
            f"left out, {amount(one.N)} parameters on {amount(one.D)} tokens: predicted {one.predicted:.3f} "
            f"({low:.3f} to {high:.3f}), reached {one.reached:.3f}, {'within' if one.within else 'outside'}; "
            f"the next smaller size has {one.nearest:.3f}"
        )
