"""`modelworks report`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.terminal import Json, print_json
from modelworks.core.errors import ConfigError


def report(
    run: Path,
    /,
    *others: Path,
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    watts: Annotated[float | None, Parameter(show_default=False, validator=Number(gt=0))] = None,
    as_json: Json = False,
) -> None:
    """Write a page about a training run, finished or not: curves, samples, recipe, lineage, cost.

    Parameters
    ----------
    run
        The run's folder.
    others
        Further runs to lay beside it.
    out
        The HTML file; report.html in the first run's folder, where not given.
    watts
        What the machine takes while it trains, for the estimate of energy; 65 for a processor and 350 for an
        accelerator, where not given.
    as_json
        Print the runs in numbers instead of the file's name.
    """
    from modelworks.core.paths import atomic_file
    from modelworks.train.report import page, read_run, summarise

    runs = [read_run(folder) for folder in (run, *others)]
    target = out or run / "report.html"
    html = page(runs, watts=watts)
    try:
        with atomic_file(target) as file:
            file.write(html)
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror or error}") from error
    if as_json:
        print_json({"report": str(target), "runs": [asdict(summarise(one, watts=watts)) for one in runs]})
    else:
        print(target)
