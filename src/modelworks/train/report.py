"""A page about a training run, or about several side by side: one HTML file that loads nothing.

    runs = [read_run("runs/small")]
    Path("report.html").write_text(page(runs), encoding="utf-8")

It is made of what `train.run` leaves in a folder, also while a run goes on. Without its script, which tells the values
under the pointer, everything is there to read. What comes from a run is escaped, and a policy in the page lets nothing
but that script run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from modelworks.core.config import as_dict, differences, resolve
from modelworks.core.errors import ConfigError
from modelworks.core.lineage import Lineage
from modelworks.core.page import document, tiles
from modelworks.core.page import number as _number
from modelworks.core.page import passage as _passage
from modelworks.core.page import table as _table
from modelworks.core.page import text as _text
from modelworks.core.units import amount, duration
from modelworks.train.curves import AXES, HELD_OUT, ROLES, Curves, charts_of, curves, draw, points
from modelworks.train.record import Record, read_metrics
from modelworks.train.run import ADAPTER, MODEL, RECIPE, read_recipe

WATTS = {"cpu": 65.0, "cuda": 350.0}
"""What a processor, or an accelerator, is assumed to take while it trains."""

_SAMPLES = 8  # evaluations whose samples are shown
_ROWS = 24  # of a table


@dataclass(frozen=True)
class Run:
    """What there is in a run's folder so far."""

    name: str
    about: Mapping[str, Any]
    records: Sequence[Record]
    recipe: Mapping[str, Any]
    defaults: Mapping[str, Any]
    """Of a recipe of that kind."""
    lineage: Lineage | None
    """None before the run has ended."""

    @cached_property
    def curves(self) -> Curves:
        return curves(self.name, self.records, clip=self.recipe.get("clip", 0.0))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in numbers; None for what is not known."""

    run: str
    kind: str
    model: str
    parameters: int
    trainable: int
    finished: bool
    steps_done: int
    steps: int
    skipped: int
    rollbacks: int
    clipped: int
    """Steps that were taken with a shortened gradient."""
    loss: float | None
    """The last, smoothed."""
    held_out_loss: float | None
    """The last."""
    lowest_held_out_loss: float | None
    tokens: int
    seconds: float
    """Of training, without evaluation and saving."""
    tokens_per_second: float | None
    mfu: float | None
    flops: float
    """By `scaling.plan`: of forward and backward passes of training alone."""
    watts: float
    """An assumption."""
    watt_hours: float


def read_run(folder: str | Path) -> Run:
    """Raise ConfigError or DataError for a folder with no run, or with one whose files are damaged."""
    home = Path(folder)
    about, records = read_metrics(home)
    recipe = read_recipe(home / RECIPE)
    defaults = as_dict(resolve(type(recipe), {"kind": recipe.kind}))
    lineage = Lineage.read(home / MODEL) or Lineage.read(home / ADAPTER)
    return Run(str(folder), about, records, as_dict(recipe), defaults, lineage)


def summarise(run: Run, *, watts: float | None = None) -> Summary:
    """`watts` is what the machine takes while it trains; by default what `WATTS` assumes of its kind."""
    curve, records = run.curves, run.records
    last = records[-1] if records else None
    seconds, flops = (last.total_seconds, last.total_flops) if last else (0.0, 0.0)
    peak = run.about.get("peak_flops")
    held_out = [value for value in curve.evaluated.get("loss", ()) if math.isfinite(value)]
    _, smooth_S = curve.smoothed("loss")
    if watts is None:
        watts = WATTS.get(str(run.about.get("device")).partition(":")[0], WATTS["cpu"])
    norms = curve.y["gradient norm"][curve.kept]
    returned = last.step.rolled_back_to if last else 0
    return Summary(
        run=run.name,
        kind=str(run.about.get("kind")),
        model=str(run.about.get("model")),
        parameters=run.about.get("parameters", 0),
        trainable=run.about.get("trainable", 0),
        finished=run.lineage is not None,
        steps_done=(last.step.step if last else 0) if returned is None else returned,
        steps=run.about.get("steps", 0),
        skipped=len(curve.skipped),
        rollbacks=len(curve.returns),
        clipped=int((norms > curve.clip).sum()) if curve.clip else 0,
        loss=float(smooth_S[-1]) if len(smooth_S) else None,
        held_out_loss=held_out[-1] if held_out else None,
        lowest_held_out_loss=min(held_out, default=None),
        tokens=last.total_tokens if last else 0,
        seconds=seconds,
        tokens_per_second=last.total_tokens / seconds if last and seconds else None,
        mfu=flops / (seconds * peak) if peak and seconds else None,
        flops=flops,
        watts=watts,
        watt_hours=watts * seconds / 3600,
    )


def page(runs: Sequence[Run], *, watts: float | None = None) -> str:
    """The page about these runs; raise ConfigError for more than can be told apart."""
    if len(runs) > len(ROLES):
        raise ConfigError(f"{len(runs)} runs in one report: at most {len(ROLES)} can be told apart; leave some out")
    runs = _distinct(runs)
    summaries = [summarise(run, watts=watts) for run in runs]
    title = " · ".join(_text(run.name) for run in runs)
    several = len(runs) > 1
    body = [f"<h1>{title}</h1>"]
    body += [_comparison(summaries)] if several else [_heading(runs[0], summaries[0])]
    body.append(_charts(runs))
    if several:
        body.append(_recipe_differences(runs))
    for run in runs:
        body += [_section(run, heading, text) for heading, text in _parts(run, several) if text]
    body.append(_cost(runs, summaries))
    files = resources.files(__package__)
    css, script = (files.joinpath(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return document(title, "\n".join(body), css=css, script=script, data=points([run.curves for run in runs]))


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """Runs by the last part of their folders, where that tells them apart."""
    short = [Path(run.name).resolve().name for run in runs]
    if len(set(short)) < len(runs):
        return list(runs)
    return [replace(run, name=name) for run, name in zip(runs, short)]


# --- texts ------------------------------------------------------------------------------------------------------------


def _value(value: object) -> str:
    return "<span class=dim>—</span>" if value is None else _text(json.dumps(value, ensure_ascii=False))


def _section(run: Run, heading: str, text: str) -> str:
    return f"<section><h2>{_text(heading)}</h2>{text}</section>"


# --- in numbers -------------------------------------------------------------------------------------------------------


def _heading(run: Run, summary: Summary) -> str:
    told = f"{summary.kind} of {summary.model}, {amount(summary.parameters)} parameters: {_state(summary)}"
    if run.records:
        written = datetime.fromtimestamp(run.records[-1].time, UTC)
        told += f"; last step written {written:%Y-%m-%d %H:%M} UTC"
    return f'<p class="dim">{_text(told)}</p>{tiles(list(_facts(summary)))}'


def _state(summary: Summary) -> str:
    return "finished" if summary.finished else "not finished"


def _facts(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """Names, values, and what there is to say beside them."""
    yield "Steps", f"{summary.steps_done:,}", f"of {summary.steps:,}"
    yield "Loss", _number(summary.loss), "of training, smoothed"
    if summary.held_out_loss is not None:
        yield "Held-out loss", _number(summary.held_out_loss), f"lowest {_number(summary.lowest_held_out_loss)}"
    yield "Tokens", amount(summary.tokens), f"{summary.tokens_per_second or 0:,.0f} a second"
    yield "Time", duration(summary.seconds), "of training alone"
    mfu = "MFU unknown" if summary.mfu is None else f"MFU {summary.mfu:.1%}"
    yield "FLOPs", f"{summary.flops:.3g}", mfu
    yield "Energy", _energy(summary.watt_hours), f"assumed {summary.watts:g} W"
    also = f"went back {summary.rollbacks} time{'s' * (summary.rollbacks != 1)}"
    yield "Skipped steps", f"{summary.skipped:,}", also
    yield "Clipped steps", f"{summary.clipped:,}", f"of {summary.steps_done:,}"


def _energy(watt_hours: float) -> str:
    return f"{watt_hours / 1000:,.3g} kWh" if watt_hours >= 1000 else f"{watt_hours:.3g} Wh"


def _comparison(summaries: Sequence[Summary]) -> str:
    columns = [{name: (value, also) for name, value, also in _facts(summary)} for summary in summaries]
    head = [
        "",
        *(
            f'<span class="key" style="background:var(--{role})"></span>{_text(summary.run)}'
            for summary, role in zip(summaries, ROLES)
        ),
    ]
    rows = [
        "<tr><th>Model"
        + "".join(f"<td>{_text(f'{one.model}, {amount(one.parameters)}, {_state(one)}')}" for one in summaries)
    ]
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = (column.get(name, ("—", "")) for column in columns)
        rows.append(
            f"<tr><th>{name}" + "".join(f'<td><b>{value}</b> <span class="dim">{also}</span>' for value, also in cells)
        )
    return _table(head, rows)


def _cost(runs: Sequence[Run], summaries: Sequence[Summary]) -> str:
    rows: list[tuple[str, list[str]]] = [
        ("FLOPs a token", [f"{run.about.get('flops_per_token', 0):.3g}" for run in runs]),
        ("FLOPs", [f"{one.flops:.3g}" for one in summaries]),
        (
            "Peak, measured",
            [f"{peak:.3g} FLOPs a second" if (peak := run.about.get("peak_flops")) else "—" for run in runs],
        ),
        ("On", [_machine(run) for run in runs]),
        ("Training", [duration(one.seconds) for one in summaries]),
        ("From the first to the last step", [_wall(run) for run in runs]),
        ("Energy", [f"{_energy(one.watt_hours)} at {one.watts:g} W" for one in summaries]),
        ("Left to do", [_left(one) for one in summaries]),
    ]
    head = ["", *(_text(run.name) for run in runs)] if len(runs) > 1 else []
    table = _table(
        head, [f"<tr><th>{name}" + "".join(f"<td>{_text(value)}" for value in values) for name, values in rows]
    )
    return (
        f"<section><h2>Cost</h2>{table}"
        '<p class="note">FLOPs are those of the forward and backward passes of training, as '
        "<code>modelworks plan</code> counts them. Energy is an estimate: the time of training by the "
        f"watts that the machine is assumed to take ({WATTS['cpu']:g} for a processor and {WATTS['cuda']:g} for an "
        "accelerator, unless <code>--watts</code> says otherwise). Evaluation, saving, and what a killed run did twice "
        "are in neither.</p></section>"
    )


def _machine(run: Run) -> str:
    threads = run.about.get("threads", 1)
    return f"{run.about.get('device')}, {threads} thread{'s' * (threads != 1)}, {run.about.get('precision')}"


def _wall(run: Run) -> str:
    return duration(run.records[-1].time - run.records[0].time) if run.records else "—"


def _left(summary: Summary) -> str:
    steps = summary.steps - summary.steps_done
    if not summary.steps_done or steps <= 0:
        return "nothing" if steps <= 0 else "—"
    return f"{steps:,} steps, about {duration(summary.seconds / summary.steps_done * steps)}"


# --- curves -----------------------------------------------------------------------------------------------------------


def _charts(runs: Sequence[Run]) -> str:
    shown = [run.curves for run in runs]
    charts = charts_of(shown)
    if not charts:
        return '<p class="note">No step is written yet.</p>'
    inputs, labels = "", ""
    for axis, label in zip(AXES, ("steps", "tokens", "time")):
        checked = " checked" if axis == AXES[0] else ""
        inputs += f'<input class="by" type="radio" name="axis" id="by-{axis}"{checked}>'
        labels += f'<label for="by-{axis}">{label}</label>'
    cards = "".join(f'<div class="card">{"".join(draw(chart, shown, axis) for axis in AXES)}</div>' for chart in charts)
    also = ""
    if len(runs) > 1:
        widths = ", ".join(f"{run.smoothing}" for run in shown)
        also = f'<p class="note">Curves are means of {widths} steps; rings are held out.</p>'
    return (
        f'<section><h2>Curves</h2>{inputs}<div class="axes"><span class="dim">against</span>{labels}'
        f'</div><div class="charts">{cards}</div>{also}</section>'
    )


# --- what belongs to one run ------------------------------------------------------------------------------------------


def _parts(run: Run, several: bool) -> Iterator[tuple[str, str]]:
    of = f" of {run.name}" if several else ""
    yield f"Skipped steps and returns{of}", _events(run)
    yield f"Samples{of}", _samples(run)
    yield f"Evaluations{of}", _evaluations(run)
    yield f"Recipe{of}", _recipe(run)
    yield f"Lineage{of}", _lineage(run)


def _events(run: Run) -> str:
    rows = []
    for at in run.curves.skipped:
        step = run.records[at].step
        back = "" if step.rolled_back_to is None else f"; went back to step {step.rolled_back_to:,}"
        rows.append(f"<tr><td>{step.step:,}<td>{_text(step.skipped)}{back}")
    more = f'<p class="note">and {len(rows) - _ROWS:,} more.</p>' if len(rows) > _ROWS else ""
    return _table(["Step", "Why"], rows[:_ROWS]) + more if rows else ""


def _evenly(records: list[Record], most: int) -> list[Record]:
    if len(records) <= most:
        return records
    return [records[round(at * (len(records) - 1) / (most - 1))] for at in range(most)]


def _evaluations(run: Run) -> str:
    names = list(run.curves.evaluated)
    records = [record for record in run.records if record.step.evaluation]
    if not names:
        return ""
    rows = []
    for record in _evenly(records, _ROWS):
        found = (record.step.evaluation.get(name) for name in names)
        cells = "".join(f"<td>{_number(value if isinstance(value, int | float) else None)}" for value in found)
        rows.append(
            f"<tr><td>{record.step.step:,}<td>{amount(record.total_tokens)}<td>{duration(record.total_seconds)}"
            f"<td>{_number(record.step.loss)}{cells}"
        )
    head = ["Step", "Tokens", "Time", "Loss", *(_text(HELD_OUT + name) for name in names)]
    return _table(head, rows)


def _samples(run: Run) -> str:
    """Texts by name and place in their list: what the model said at evaluations of the run."""
    said: dict[tuple[str, int], list[tuple[int, str]]] = {}
    records = [
        record
        for record in run.records
        if any(isinstance(value, list | tuple) for value in record.step.evaluation.values())
    ]
    for record in _evenly(records, _SAMPLES):
        for name, value in record.step.evaluation.items():
            for at, text in enumerate(value if isinstance(value, list | tuple) else ()):
                said.setdefault((name, at), []).append((record.step.step, str(text)))
    prompts = run.recipe.get("samples", {}).get("prompts", ())
    parts = []
    for (name, at), texts in said.items():
        prompt = prompts[at] if name == "samples" and at < len(prompts) else ""
        rows = [
            f'<tr><td>{step:,}<td><div class="said">{_passage(text.removeprefix(prompt))}</div>' for step, text in texts
        ]
        head = ["Step", "It went on with" if prompt else ""]
        parts.append(f"<h3>{_text(prompt or f'{name} {at + 1}')}</h3>{_table(head, rows, 'says')}")
    if parts and len(records) > _SAMPLES:
        parts.append(f'<p class="note">{_SAMPLES} of {len(records)} evaluations.</p>')
    return "".join(parts)


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """By path, as `differences` names them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{path}{key}.")
        elif value is not None:
            flat[f"{path}{key}"] = value
    return flat


def _recipe(run: Run) -> str:
    changed = {path: default for path, _, default in differences(run.recipe, run.defaults)}
    same, other = [], []
    for path, value in _flat(run.recipe).items():
        if path in changed:
            other.append(f'<tr class="changed"><th>{_text(path)}<td>{_value(value)}<td>{_value(changed[path])}')
        else:
            same.append(f"<tr><th>{_text(path)}<td>{_value(value)}")
    differing = _table(["Key", "Value", "Default"], other, "mono") if other else ""
    return (
        f"{differing}<details><summary>{len(same)} more at their defaults</summary>{_table((), same, 'mono')}</details>"
    )


def _recipe_differences(runs: Sequence[Run]) -> str:
    flat = [_flat(run.recipe) for run in runs]
    rows = []
    for path in sorted({path for one in flat for path in one}):
        values = [one.get(path) for one in flat]
        if any(value != values[0] for value in values):
            rows.append(f"<tr><th>{_text(path)}" + "".join(f"<td>{_value(value)}" for value in values))
    table = _table(["Key", *(_text(run.name) for run in runs)], rows, "mono")
    return f"<section><h2>What differs in their recipes</h2>{table if rows else '<p>Nothing.</p>'}</section>"


def _lineage(run: Run) -> str:
    rows = [f"<tr><th>Parents<td>{'<br>'.join(map(_text, run.about.get('parents', ()))) or 'none: from nothing'}"]
    rows += [
        f"<tr><th>Data<td>{_text(name)}<br><code>{_text(digest)}</code>"
        for name, digest in run.about.get("data", {}).items()
    ]
    rows.append(f"<tr><th>Seed<td>{_value(run.recipe.get('seed'))}")
    if run.lineage is None:
        rows.append("<tr><th>Versions<td>written with the model, at the end of the run")
    else:
        versions = ", ".join(f"{name} {version}" for name, version in run.lineage.versions.items())
        rows += [f"<tr><th>Made<td>{_text(run.lineage.created)}", f"<tr><th>Versions<td>{_text(versions)}"]
    return _table((), rows)
