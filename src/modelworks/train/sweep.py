"""A sweep: small models of many sizes trained as a law needs them, and what their losses say.

    recipe = read_sweep(Path("recipes/sweep.toml"), overrides)
    for trained in sweep(recipe, folder): ...
    report(recipe, folder)

Each run has a folder of its own and goes on from its checkpoint where it was stopped. `runs.csv` gets a row when a run
ends, and what has a row is not trained again. The report makes `curves.csv`, the held-out loss along every run.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelworks.core.config import as_dict, differences, read_values, resolve, to_toml
from modelworks.core.errors import ConfigError
from modelworks.core.paths import read_json
from modelworks.data.shards import Shards
from modelworks.models.folder import CONFIG
from modelworks.scaling.figures import draw_fit, draw_parabolas, draw_predictions
from modelworks.scaling.fit import Fit, fit_chinchilla, save_fit
from modelworks.scaling.frontier import fit_envelope, fit_isoflop
from modelworks.scaling.machine import matmul_peak
from modelworks.scaling.plan import build, size_of
from modelworks.scaling.runs import FLOPS_PER_PARAMETER, read_runs
from modelworks.scaling.sweep import Prediction, SweepRun, plan_sweep, predict_largest
from modelworks.train.checkpoint import seed_everything
from modelworks.train.language import LanguageRecipe
from modelworks.train.loop import train
from modelworks.train.record import METRICS, Record
from modelworks.train.run import RECIPE, run

RUNS, CURVES, REPORT, LAW = "runs.csv", "curves.csv", "report.json", "law.json"
_PROBE, _WARM = 12, 4  # steps that are timed of a size, of which the first are slow
_GUESS = 1.0  # of the peak: where plans begin, rather too large than where a vocabulary leaves no room
_PLANS = 2  # how often a plan is made anew with the rates of its own sizes
_LEAST_STEPS = 20  # below which a run is no run


@dataclass(frozen=True, kw_only=True)
class SweepRecipe:
    """How much to spend on which sizes, and how each is trained."""

    hours: float | None = None
    "What all runs may take on this machine together, by the speed of a few sizes that is measured first."
    flops: float | None = None
    "Or what they may cost, as 6 N D."
    budgets: int = 3
    sizes: int = 5
    "At each budget."
    step: float = 1.6
    "From one size to the next; budgets grow by its square."
    tokens_per_parameter: float = 20.0
    "About which optimum the sizes lie."
    warmup: float = 0.05
    "Of each run's steps."
    evaluations: int = 10
    "Points of each run's curve."
    seed: int = 0
    "Of the resamples; that of training is `run.seed`."
    run: LanguageRecipe
    "As a recipe for `modelworks train`; its steps and its model's config come from the plan."

    def __post_init__(self) -> None:
        if (self.hours is None) == (self.flops is None):
            raise ConfigError("state either hours or flops, what all runs may take together")
        for name in ("hours", "flops"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be above 0, got {value}")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup must be from 0 to below 1, got {self.warmup}")
        if self.evaluations < 1:
            raise ConfigError(f"evaluations must be 1 or more, got {self.evaluations}")
        if self.run.model.ref is not None:
            raise ConfigError("run.model.ref: a sweep trains new models; state model.tokenizer")
        if self.run.data.held_out is None:
            raise ConfigError("run.data.held_out: missing; a law is fitted to held-out losses")

    @property
    def tokens_per_step(self) -> int:
        return self.run.accumulate * self.run.data.batch_size * self.run.data.seq_len


def read_sweep(path: Path, overrides: tuple[str, ...] = ()) -> SweepRecipe:
    """The recipe of a TOML file, with overrides such as `hours=0.5`; raise ConfigError that names each fault."""
    values = read_values(path, overrides)
    table = values.get("run")
    if isinstance(table, dict):
        values["run"] = {"kind": "pretrain", "steps": 1} | table
    try:
        return resolve(SweepRecipe, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


# --- the plan ---------------------------------------------------------------------------------------------------------


def make_plan(recipe: SweepRecipe) -> list[SweepRun]:
    """The runs that `flops` pay for, or that `hours` have time for: then some sizes are trained for a few steps first.

    Raises ConfigError for a budget too small to tell sizes apart, or to train a run for 20 steps.
    """
    flops = recipe.flops
    if flops is None:
        assert recipe.hours is not None
        seconds = recipe.hours * 3600
        flops = seconds * _GUESS * matmul_peak(torch.float32)
        for _ in range(_PLANS):
            planned = _plan(recipe, flops)
            flops *= seconds / sum(_seconds(planned, _measured(recipe, planned)))
    planned = _plan(recipe, flops)
    if (fewest := min(run.tokens // recipe.tokens_per_step for run in planned)) < _LEAST_STEPS:
        raise ConfigError(
            f"the shortest run would have {fewest} steps of {recipe.tokens_per_step} tokens; raise the budget, or "
            "lower run.data.batch_size or run.accumulate"
        )
    return planned


def _plan(recipe: SweepRecipe, flops: float) -> list[SweepRun]:
    return plan_sweep(
        flops,
        vocabulary=_vocabulary(recipe),
        context=recipe.run.data.seq_len,
        budgets=recipe.budgets,
        sizes=recipe.sizes,
        step=recipe.step,
        tokens_per_parameter=recipe.tokens_per_parameter,
    )


def _vocabulary(recipe: SweepRecipe) -> int:
    if not recipe.run.data.train:
        raise ConfigError("run.data.train: missing; name folders of tokenised data")
    return int(Shards(next(iter(recipe.run.data.train)), verify=False).manifest["vocab_size"])


def _measured(recipe: SweepRecipe, planned: Sequence[SweepRun]) -> dict[int, float]:
    """Seconds a token of the smallest, the middle and the largest size."""
    by_size = sorted({run.parameters: run for run in planned}.values(), key=lambda run: run.parameters)
    return {run.parameters: _probe(recipe, run) for run in (by_size[0], by_size[len(by_size) // 2], by_size[-1])}


def _probe(recipe: SweepRecipe, planned: SweepRun) -> float:
    short = replace(_recipe_of(recipe, planned), steps=_PROBE, evaluate_every=0, save_every=0)
    seed_everything(short.seed)
    job = short.prepare()
    took = [step.seconds for step in islice(train(job.model, job.batches, job.objective, short), _PROBE)]
    return statistics.median(took[_WARM:]) / recipe.tokens_per_step


def _seconds(planned: Sequence[SweepRun], measured: Mapping[int, float]) -> list[float]:
    sizes = sorted(measured)
    each = np.interp(
        np.log([run.parameters for run in planned]), np.log(sizes), np.log([measured[size] for size in sizes])
    )
    return [float(run.tokens * np.exp(seconds)) for run, seconds in zip(planned, each)]


def _recipe_of(recipe: SweepRecipe, planned: SweepRun) -> LanguageRecipe:
    steps = max(planned.tokens // recipe.tokens_per_step, 1)
    base = recipe.run
    return replace(
        base,
        steps=steps,
        model=replace(base.model, config={**planned.config, **base.model.config}),
        evaluate_every=max(steps // recipe.evaluations, 1),
        schedule=replace(base.schedule, warmup=round(recipe.warmup * steps)),
    )


# --- the runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A run of the sweep that has ended: its row."""

    run: str
    parameters: int
    parameters_without_embeddings: int
    tokens: int
    flops: float
    loss: float
    seconds: float


def sweep(
    recipe: SweepRecipe, folder: str | Path, *, watch: Callable[[SweepRun, Record], None] = lambda run, record: None
) -> Iterator[Trained]:
    """Train every run of the plan that has no row yet, the cheapest first; yield each row as it comes.

    The plan is kept in the folder: a sweep that goes on has the runs with which it began. Raises ConfigError for a
    folder with another sweep in it, and what `run` raises.
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    planned = _kept_plan(recipe, home)
    done = {row["run"] for row in _rows(home / RUNS)}
    for one in planned:
        if one.name in done:
            continue
        place = home / one.name
        resume = (place / METRICS).exists()
        model = run(_recipe_of(recipe, one), place, resume=resume, watch=lambda record, one=one: watch(one, record))  # type: ignore[misc]
        yield _collect(home, one, model)


def _kept_plan(recipe: SweepRecipe, home: Path) -> list[SweepRun]:
    kept = home / RECIPE
    plan = home / "plan.json"
    if kept.exists() and plan.exists():
        before = as_dict(resolve(SweepRecipe, read_values(kept)))
        changed = [f"{path} was {a!r}, is {b!r}" for path, a, b in differences(before, as_dict(recipe))]
        if changed:
            raise ConfigError(f"{home}: there is a sweep by another recipe ({changed[0]}); name another folder")
        return [SweepRun(**run) for run in json.loads(plan.read_text(encoding="utf-8"))]
    if any(home.iterdir()):
        raise ConfigError(f"{home}: it holds something other than a sweep; name a new folder")
    planned = make_plan(recipe)
    plan.write_text(json.dumps([asdict(run) for run in planned], indent=1) + "\n", encoding="utf-8")
    kept.write_text(to_toml(recipe), encoding="utf-8")
    return planned


def _collect(home: Path, planned: SweepRun, model: Path) -> Trained:
    size = size_of(build(read_json(model / CONFIG)))
    last = _metrics(home / planned.name)[-1]
    tokens = last["total_tokens"]
    row = Trained(
        planned.name,
        size.total,
        size.without_embeddings,
        tokens,
        float(FLOPS_PER_PARAMETER) * size.total * tokens,
        float(last["evaluation"]["loss"]),
        round(last["total_seconds"], 2),
    )
    new = not (home / RUNS).exists()
    with (home / RUNS).open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(row)))
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))
    return row


def _metrics(run_folder: Path) -> list[dict[str, Any]]:
    """What is known of each step that was taken."""
    # Not splitlines: samples may have line separators, which JSON leaves as they are.
    lines = (run_folder / METRICS).read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [step for step in map(json.loads, lines) if "step" in step]


def _write_curves(home: Path) -> Path:
    """The held-out loss at every evaluation of every run that has ended, as points of training curves."""
    with (home / CURVES).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "parameters", "tokens", "loss"])
        for row in _rows(home / RUNS):
            for step in _metrics(home / row["run"]):
                if "evaluation" in step:
                    writer.writerow([row["run"], row["parameters"], step["total_tokens"], step["evaluation"]["loss"]])
    return home / CURVES


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepReport:
    """What a finished sweep says. An approach that its runs are too few for is left out, with the reason."""

    law: Fit[Any]
    """Approach 3 on all runs."""
    exponents: Mapping[str, tuple[float, float, float]]
    """a of N = k C^a, low and high, by approach."""
    predictions: Sequence[Prediction]
    """Of the largest size, by a fit that has not seen it."""
    left_out: Mapping[str, str] = field(default_factory=dict)


def report(recipe: SweepRecipe, folder: str | Path) -> SweepReport:
    """Fit the three approaches, predict the largest size from the others, draw it all; write report.json and law.json.

    Raises ConfigError for too few runs.
    """
    home, seed = Path(folder), recipe.seed
    runs = read_runs(home / RUNS)
    law = fit_chinchilla(runs, seed=seed)
    exponents = {"3": (float(law.law.exponent), *law.interval(lambda one: one.exponent))}
    left_out = dict[str, str]()
    try:
        parabolas = fit_isoflop(runs, seed=seed)
        exponents["2"] = (float(parabolas.fit.law.a), *parabolas.fit.interval(lambda one: one.a))
        draw_parabolas(parabolas, runs, "Loss by size at each budget").save(home / "isoflop.svg")
    except ConfigError as error:
        left_out["2"] = str(error)
    try:
        envelope = fit_envelope(read_runs(_write_curves(home)), seed=seed)
        exponents["1"] = (float(envelope.law.a), *envelope.interval(lambda one: one.a))
    except ConfigError as error:
        left_out["1"] = str(error)
    predictions = predict_largest(runs, seed=seed)
    rest = runs[runs.N_R.max() > runs.N_R]
    draw_fit(law, runs, "Loss by compute").save(home / "law.svg")
    picture = draw_predictions(fit_chinchilla(rest, seed=seed), rest, predictions, "A size that was left out")
    picture.save(home / "prediction.svg")
    save_fit(law, home / LAW)
    value = {
        "parameters": law.parameters(),
        "counting": law.counting,
        "exponents": {approach: list(found) for approach, found in sorted(exponents.items())},
        "left_out": left_out,
        "predictions": [asdict(one) | {"within": one.within} for one in predictions],
    }
    (home / REPORT).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return SweepReport(law, exponents, predictions, left_out)
