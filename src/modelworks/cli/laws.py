"""`modelworks plan fit`, and a law's words for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.terminal import Json, note, print_json, print_lines, print_table, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.units import amount, between

if TYPE_CHECKING:
    from modelworks.scaling.budget import Allocation
    from modelworks.scaling.fit import Fit
    from modelworks.scaling.frontier import IsoFLOP


def _amounts(_: Any, tokens: Sequence[Any]) -> tuple[float, ...]:
    """ "6e18,1e19" as numbers."""
    numbers = tuple(float(part) for token in tokens for part in token.value.split(","))
    if not all(0 < number < float("inf") for number in numbers):
        raise ValueError("positive numbers, with commas between them")
    return numbers


Amounts = Annotated[tuple[float, ...] | None, Parameter(converter=_amounts, n_tokens=1)]


def fit(
    runs: Path,
    /,
    *,
    law: Literal["chinchilla", "kaplan", "isoflop", "envelope"] = "chinchilla",
    drop_highest: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    budgets: Amounts = None,
    resamples: Annotated[int, Parameter(validator=Number(gte=20, lte=100_000))] = 1000,
    seed: int = 0,
    at: Amounts = None,
    plot: Path | None = None,
    save: Path | None = None,
    as_json: Json = False,
) -> None:
    """Fit a law to training runs, with bootstrap intervals.

    Parameters
    ----------
    runs
        A CSV with a column loss and two of parameters, tokens and flops; `parameters_without_embeddings` counts so.
    law
        chinchilla: L = E + A/N^alpha + B/D^beta (approach 3). kaplan: L(N, D) of 2020. isoflop: a parabola for each
        budget (approach 2). envelope: the lowest of training curves (approach 1); rows are points, a column run names
        their curve.
    drop_highest
        Leave out so many rows of highest loss.
    budgets
        FLOPs of the parabolas, such as 6e18,1e19; found where not given.
    resamples
        How often the rows are drawn anew for the intervals.
    seed
        Of the resamples.
    at
        Budgets to allocate, in FLOPs.
    plot
        Draw runs and law: a file that ends in .svg, .html or .png.
    save
        Write the law, with its resamples, to a file for `modelworks plan --law`.
    as_json
        Print JSON instead of a table.
    """
    from modelworks.core.picture import check_suffix
    from modelworks.scaling.budget import allocate
    from modelworks.scaling.figures import draw_fit, draw_parabolas
    from modelworks.scaling.fit import FAR, fit_chinchilla, fit_kaplan, save_fit
    from modelworks.scaling.frontier import fit_envelope, fit_isoflop
    from modelworks.scaling.runs import read_runs

    if plot is not None:
        check_suffix(plot)
    if budgets is not None and law != "isoflop":
        raise ConfigError("--budgets is for --law isoflop")
    data = read_runs(runs)
    kept = data.without_highest(drop_highest)
    iso: IsoFLOP | None = None
    if law == "chinchilla":
        fitted: Fit[Any] = fit_chinchilla(kept, resamples=resamples, seed=seed)
    elif law == "kaplan":
        fitted = fit_kaplan(kept, resamples=resamples, seed=seed)
    elif law == "envelope":
        fitted = fit_envelope(kept, resamples=resamples, seed=seed)
    else:
        iso = fit_isoflop(kept, budgets, resamples=resamples, seed=seed)
        fitted = iso.fit
    left_out = list(iso.left_out) if iso else []
    chosen = [allocate(fitted, budget) for budget in at or ()]
    if save is not None:
        save_fit(fitted, save)
    if plot is not None:
        title = f"{law} law of {runs.name}"
        picture = draw_parabolas(iso, kept, title) if iso is not None else draw_fit(fitted, kept, title)
        picture.save(plot)
    intervals = {name: fitted.interval(attrgetter(name)) for name in vars(fitted.law)}
    exponent = fitted.interval(lambda one: one.exponent)
    if as_json:
        print_json(
            {
                "law": law,
                "counting": fitted.counting,
                "rows": fitted.rows,
                "dropped": drop_highest,
                "objective": fitted.objective,
                "parameters": fitted.parameters(),
                "intervals": {name: list(interval) for name, interval in intervals.items()},
                "exponent": fitted.law.exponent,
                "exponent_interval": list(exponent),
                "left_out": left_out,
                "resamples": resamples,
                "seed": seed,
                "allocations": [asdict(each) for each in chosen],
            }
        )
        return
    out = stdout()
    dropped = f", without the {drop_highest} highest losses" if drop_highest else ""
    out.print(f"{law}: {fitted.rows} of {len(data)} rows{dropped}; N counts parameters {counts(fitted)}")
    rows = [
        [name, f"{value:.5g}", f"{intervals[name].low:.4g} to {intervals[name].high:.4g}"]
        for name, value in fitted.parameters().items()
    ]
    if "a" not in intervals:
        rows.append(["a", f"{fitted.law.exponent:.4g}", f"{exponent.low:.4g} to {exponent.high:.4g}"])
    print_table(["", "fitted", "95% interval"], rows)
    out.print(f"a is the exponent of the best size: N = k C^a. {resamples} resamples, seed {seed}")
    for each in chosen:
        print_lines(f"\nbudget of {each.flops:.3g} FLOPs", allocation_lines(each))
        warn_beyond(each)
    for reason in left_out:
        note(f"left out: {reason}")
    if far := fitted.far():
        note(f"{far} rows lie {FAR} times as far from the law as the middle row does, and pull it; see --drop-highest")


def allocation_lines(best: Allocation) -> list[tuple[str, str]]:
    counted = "" if best.counting == "total" else " without embeddings"
    lines = [
        ("parameters", f"{amount(best.N)}{counted}  (95%: {between(best.N_interval)})"),
        ("tokens", f"{amount(best.D)}  (95%: {between(best.D_interval)})"),
        ("tokens a parameter", f"{best.tokens_per_parameter:.3g}"),
    ]
    if best.loss is not None and best.loss_interval is not None:
        low, high = best.loss_interval
        lines.append(("loss", f"{best.loss:.3f} nats a token of the law's text  (95%: {low:.3f} to {high:.3f})"))
    return lines


def warn_beyond(best: Allocation) -> None:
    if best.beyond > 2:
        note(
            f"the budget is {best.beyond:,.3g} times outside the runs that the law was fitted to: an extrapolation; "
            "a sweep of small models on your own text says more"
        )


def counts(fit: Fit[Any]) -> str:
    return "in all" if fit.counting == "total" else "without embeddings"
