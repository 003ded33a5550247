"""`modelworks bench`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.terminal import Flag, note, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped, progress, warn_once

if TYPE_CHECKING:
    from modelworks.engine.bench.report import Report

_QUICK = {"context": 128, "tokens": 32, "concurrency": (1, 4), "passes": 1}


def _numbers(_: Any, tokens: Sequence[Any]) -> tuple[int, ...]:
    """ "1,4,16" as numbers, each once, in order."""
    numbers = sorted({int(part) for token in tokens for part in token.value.split(",")})
    if not all(1 <= number <= 256 for number in numbers):
        raise ValueError("numbers from 1 to 256, with commas between them")
    return tuple(numbers)


Tokens = Annotated[int | None, Parameter(validator=Number(gte=1))]
Numbers = Annotated[tuple[int, ...] | None, Parameter(converter=_numbers, n_tokens=1)]
Pythons = Annotated[tuple[Path, ...], Parameter(show_default=False)]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]


def bench(
    model: str = "starter",
    /,
    *,
    threads: Annotated[int | None, Parameter(validator=Number(gte=1, lte=1024))] = None,
    rounds: Annotated[int | None, Parameter(validator=Number(gte=1, lte=100))] = None,
    quick: Flag = False,
    context: Tokens = None,
    concurrency: Numbers = None,
    weights: Literal["q8", "q4"] | None = None,
    peers: Literal["all", "llama.cpp", "transformers", "none"] = "all",
    peer_python: Pythons = (),
    timeout: Seconds = 600.0,
    json_file: Annotated[str | None, Parameter(name="--json", allow_leading_hyphen=True)] = None,
    chart: Path | None = None,
) -> None:
    """Measure a model: decode, prefill, time to first token, throughput of many requests, memory.

    Where llama.cpp and transformers are installed, they are measured in the same run, in turn with modelworks, with as
    many threads. Each runs in a process of its own.

    Parameters
    ----------
    model
        A folder, a .gguf file, hf:org/name, pypi:package or starter.
    threads
        Threads of each side; all cores that this process may use, where not given.
    rounds
        How often each side is measured, in turn: 3, or 1 with --quick.
    quick
        One round of a shorter context and fewer requests: a first impression.
    context
        Tokens of the prompt that is read, and that decoding goes on from: 512, or 128 with --quick.
    concurrency
        How many requests are answered at once, such as 1,4,16.
    weights
        Pack the weights of modelworks to 8 or 4 bits; the peers compute their own.
    peers
        Whom to measure beside modelworks.
    peer_python
        A Python interpreter that has llama-cpp-python or transformers; give it several times.
    timeout
        Seconds that a side may be silent before it is left out.
    json_file
        Write every figure, with its conditions, to a file, or with - to standard output instead of the table.
    chart
        Draw a chart: a file that ends in .svg, .html or .png.
    """
    from modelworks.cli.chart import FORMATS
    from modelworks.engine.bench.compare import PEERS, Task, compare, find_peers, own
    from modelworks.engine.bench.report import Watch, describe_model, make_report
    from modelworks.kernels.native import threads as all_threads
    from modelworks.models.fetch import pull

    # Before minutes of measuring: whatever could make them be in vain.
    if chart is not None and chart.suffix.lower() not in FORMATS:
        raise ConfigError(f"{chart}: a chart is {', '.join(FORMATS)}; name a file that ends so")
    for file in (chart, None if json_file in (None, "-") else Path(str(json_file))):
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise ConfigError(f"{file}: cannot be written there; name a file in a folder that exists")
    wanted = {"all": PEERS, "none": ()}.get(peers, (peers,))
    found, missing = find_peers(peer_python, wanted)
    path = pull(model)
    watch = Watch.begin()
    changes = _QUICK if quick else {}
    asked = {"context": context, "concurrency": concurrency}
    changes = changes | {name: value for name, value in asked.items() if value is not None}
    task = Task(model=str(path), threads=threads or all_threads(), weights=weights, **changes)  # type: ignore[arg-type]
    rounds = rounds or (1 if quick else 3)
    for name, reason in missing.items():
        note(f"{name}: {reason}")
    sides = [own(), *found]
    with progress("measuring", len(sides) * rounds * len(task.measures)) as advance:
        outcomes = compare(task, sides, rounds=rounds, patience=timeout, advance=advance)
    machine = watch.describe()
    report = make_report(
        task, outcomes, rounds=rounds, model=describe_model(model, path), machine=machine, missing=missing
    )
    for side in found:
        if fault := outcomes[side.name].fault:
            warn_once(f"{side.name} is left out from where it failed: {fault}")
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
    if json_file == "-":
        print(text)
    else:
        _print_table(report)
        if json_file is not None:
            Path(json_file).write_text(text + "\n", encoding="utf-8")
    if chart is not None:
        drawn = FORMATS[chart.suffix.lower()](report)
        chart.write_bytes(drawn if isinstance(drawn, bytes) else drawn.encode())


def _print_table(report: Report) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from modelworks.cli.chart import describe_conditions, format_number

    out = stdout()
    sides, compared = list(report.about), not report.machine["busy"]
    out.print(f"{escaped(report.model['name'])}: {report.model['bytes'] / 1e6:,.0f} MB")
    for line in describe_conditions(report):
        out.print(line)
    table = Table("", "", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for side in sides:
        table.add_column(side, justify="right", no_wrap=True)
        if compared and side != sides[0]:
            table.add_column("ratio", justify="right", no_wrap=True)
    for measure in report.measures:
        cells = [measure.label, measure.unit]
        for side in sides:
            figure = measure.figures.get(side)
            cells.append("-" if figure is None else format_number(figure.median))
            if compared and side != sides[0]:
                cells.append("" if figure is None else f"{format_number(measure.ratios[side])}×")
        table.add_row(*cells)
    out.print(table)
    if compared and len(sides) > 1:
        out.print("ratio: how many times better modelworks is; below 1, how much worse")
