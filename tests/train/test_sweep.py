"""Sweeps: runs by plan, what stays of them, going on, and the report."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from modelworks.core.errors import ConfigError, Stopped
from modelworks.scaling.fit import load_fit
from modelworks.scaling.laws import Chinchilla
from modelworks.scaling.runs import read_runs
from modelworks.scaling.sweep import plan_sweep
from modelworks.train.sweep import CURVES, LAW, RUNS, make_plan, read_sweep, report, sweep

RECIPE = Path(__file__).parents[2] / "recipes" / "sweep.toml"
FLOPS = 1.2e10  # nine runs of 30 to 200 steps of 32 tokens, of 20,000 to 150,000 parameters


@pytest.fixture(scope="module")
def overrides(workshop: Path):
    def make(*more: str) -> tuple[str, ...]:
        return (
            f"flops={FLOPS}",
            "sizes=3",
            "step=1.6",
            "tokens_per_parameter=0.05",
            "evaluations=3",
            f'run.model.tokenizer="{workshop}/tokenizer"',
            f'run.data.train={{"{workshop}/train" = 1.0}}',
            f'run.data.held_out="{workshop}/held"',
            "run.data.seq_len=32",
            "run.data.batch_size=1",
            "run.data.held_out_batches=2",
            "run.save_every=0",
            *more,
        )

    return make


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe that ships, without its hours."""
    file = tmp_path_factory.mktemp("recipes") / "sweep.toml"
    file.write_text(RECIPE.read_text().replace("hours = 0.5\n", ""))
    return file


@pytest.fixture(scope="module", autouse=True)
def unmeasured_peak():
    """A second for each run otherwise, and only MFU depends on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelworks.train.run.matmul_peak", lambda dtype, device: 1e10)
        yield


@pytest.fixture(scope="module")
def recipe(recipe_file: Path, overrides):
    return read_sweep(recipe_file, overrides())


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that was stopped amid a run and went on."""
    home = tmp_path_factory.mktemp("sweeps") / "sweep"
    rows = []

    def stop(run, record) -> None:
        if len(rows) == 2 and record.step.step == 25:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        rows.extend(sweep(recipe, home, watch=stop))
    assert len(rows) == 2
    seen = []
    rows += list(sweep(recipe, home, watch=lambda run, record: seen.append((run.name, record.step.step))))
    assert seen[0][1] == 26  # the third run goes on where it was
    assert len(rows) == 9
    assert list(sweep(recipe, home)) == []  # nothing is left to do
    return home


def test_the_rows_are_what_was_planned(recipe, finished: Path) -> None:
    runs = read_runs(finished / RUNS)
    planned = make_plan(recipe)
    assert runs.N_R.tolist() == [run.parameters for run in planned]
    for run, D in zip(planned, runs.D_R):
        assert 0.9 * run.tokens < D <= run.tokens
    assert runs.C_R.sum() == pytest.approx(FLOPS, rel=0.1)
    assert 0.3 < runs.loss_R.min() < runs.loss_R.max() < 3  # of 5.55 at the start


@pytest.fixture
def lawful(tmp_path: Path) -> Path:
    """A finished sweep of larger models, whose losses are those of a law; the runs of its folder are made up."""
    law = Chinchilla(1.8, 480.0, 0.34, 2000.0, 0.37)
    noise = np.random.default_rng(0)
    lines = ["run,parameters,parameters_without_embeddings,tokens,flops,loss,seconds"]
    for run in plan_sweep(1e18, vocabulary=8192, context=128):
        (tmp_path / run.name).mkdir()
        steps = [{"run": {}}]
        for part in range(1, 11):
            loss = float(law.loss(run.parameters, run.tokens * part / 10) * np.exp(noise.normal(0, 0.003)))
            steps.append({"step": part, "total_tokens": run.tokens * part // 10, "evaluation": {"loss": loss}})
        (tmp_path / run.name / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
        lines.append(f"{run.name},{run.parameters},1,{run.tokens},{run.flops},{loss},1")
    (tmp_path / RUNS).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_report_has_law_exponents_and_prediction(recipe, lawful: Path) -> None:
    found = report(recipe, lawful)
    assert found.law.rows == 15
    assert set(found.exponents) | set(found.left_out) == {"1", "2", "3"}
    for approach in ("2", "3"):
        a, low, high = found.exponents[approach]
        assert low < a < high
        assert a == pytest.approx(0.37 / 0.71, abs=0.1)
    (prediction,) = found.predictions
    assert read_runs(lawful / RUNS).N_R.max() == prediction.N
    assert prediction.within
    said = json.loads((lawful / "report.json").read_text())
    assert said["predictions"][0]["reached"] == prediction.reached
    assert load_fit(lawful / LAW).law == found.law.law
    assert len(read_runs(lawful / CURVES)) == 150
    for picture in ("law.svg", "isoflop.svg", "prediction.svg"):
        assert (lawful / picture).read_text().startswith("<svg")


def test_hours_are_planned_by_measured_speed(recipe_file: Path, overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a machine that takes as long as it has FLOPs to do, hours buy as many."""
    rate = FLOPS / 360
    monkeypatch.setattr("modelworks.train.sweep._probe", lambda recipe, run: 6 * run.parameters / rate)
    monkeypatch.setattr("modelworks.train.sweep.matmul_peak", lambda dtype: rate)
    hours = tuple(item for item in overrides("hours=0.1") if not item.startswith("flops"))
    planned = make_plan(read_sweep(recipe_file, hours))
    assert sum(run.flops for run in planned) == pytest.approx(FLOPS, rel=1e-3)


def test_a_size_is_timed_by_training_it(recipe) -> None:
    from modelworks.train.sweep import _probe

    assert 1e-7 < _probe(recipe, make_plan(recipe)[0]) < 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("hours=1",), "state either hours or flops"),
        (("flops=-1",), "flops must be above 0"),
        (("run.model.ref=starter",), "a sweep trains new models"),
        (("run.optim.learning_rate=1",), "run.optim.learning_rate: unknown"),
        (("sise=3",), "sise: unknown; did you mean size"),
    ],
)
def test_a_recipe_that_is_none_is_refused(recipe_file: Path, overrides, more: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_sweep(recipe_file, overrides(*more))
    assert said in str(error.value)


def test_budgets_that_are_too_small_are_refused(recipe_file: Path, overrides) -> None:
    with pytest.raises(ConfigError, match="too small"):
        make_plan(read_sweep(recipe_file, overrides("flops=1e8")))
    with pytest.raises(ConfigError, match=r"the shortest run would have \d steps"):
        make_plan(read_sweep(recipe_file, overrides("run.data.batch_size=64")))


def test_a_folder_with_something_else_in_it_is_refused(recipe_file: Path, overrides, recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="something other than a sweep"):
        next(sweep(recipe, tmp_path))


def test_another_recipe_does_not_go_on_in_a_sweeps_folder(recipe_file: Path, overrides, finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"another recipe \(run\.optim\.lr was 0\.01, is 0\.001\)"):
        next(sweep(read_sweep(recipe_file, overrides("run.optim.lr=1e-3")), finished))
