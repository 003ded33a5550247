"""`modelworks plan fit`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelworks.scaling.laws import Chinchilla

LAW = Chinchilla(1.8, 480.0, 0.35, 2000.0, 0.35)


@pytest.fixture
def runs_csv(tmp_path: Path) -> Path:
    lines = ["parameters,tokens,loss,run"]
    for C in (1e17, 1e18, 1e19):
        for factor in np.geomspace(1 / 8, 8, 7):
            N = LAW.optimum(C)[0] * factor
            lines.append(f"{N},{C / 6 / N},{LAW.loss(N, C / 6 / N)},{C}-{factor}")
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_fit_says_what_it_found(run, runs_csv: Path) -> None:
    result = run("plan", "fit", runs_csv, "--resamples", "50", "--at", "1e20")
    assert result.status == 0
    for part in ("21 of 21 rows; N counts parameters in all", "0.35", "budget of 1e+20 FLOPs", "50 resamples, seed 0"):
        assert part in result.out


def test_a_fit_as_json_and_as_a_law_for_plans(run, runs_csv: Path, tmp_path: Path) -> None:
    saved = tmp_path / "law.json"
    said = json.loads(run("plan", "fit", runs_csv, "--resamples", "50", "--save", saved, "--json").out)
    assert said["parameters"]["E"] == pytest.approx(1.8)
    assert said["exponent"] == pytest.approx(0.5)
    planned = json.loads(run("plan", "--flops", "1e19", "--law", saved, "--peak", "1e12", "--json").out)
    assert planned["best"]["N"] == pytest.approx(LAW.optimum(1e19)[0], rel=1e-3)


@pytest.mark.parametrize("law", ["chinchilla", "kaplan", "isoflop"])
def test_every_law_is_drawn(run, runs_csv: Path, tmp_path: Path, law: str) -> None:
    result = run("plan", "fit", runs_csv, "--law", law, "--resamples", "20", "--plot", tmp_path / "fit.svg")
    assert result.status == 0, result.err
    assert f"{law} law of runs.csv" in (tmp_path / "fit.svg").read_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--law", "envelope"], "every run has one row"),
        (["--budgets", "1e18"], "--budgets is for --law isoflop"),
        (["--law", "isoflop", "--budgets", "1e18,1e30"], "parabolas need two budgets"),
        (["--drop-highest", "16"], "5 rows are too few for a law of 5 parameters"),
        (["--drop-highest", "99"], "99 of 21 rows cannot be dropped"),
        (["--plot", "fit.gif"], "a picture is .svg, .html, .png"),
    ],
)
def test_what_cannot_be_fitted_is_refused(run, runs_csv: Path, argv: list[str], said: str) -> None:
    run("plan", "fit", runs_csv, *argv).assert_one_line_error(said)


def test_a_file_without_the_columns_names_those_that_are_there(run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("step,loss\n1,2\n")
    run("plan", "fit", tmp_path / "x.csv").assert_one_line_error("columns: step, loss")
    run("plan", "fit", tmp_path / "none.csv").assert_one_line_error("none.csv")


def test_budgets_are_numbers(run, runs_csv: Path) -> None:
    run("plan", "fit", runs_csv, "--budgets", "1e18,-2").assert_one_line_error("--budgets", status=2)


def test_rows_far_off_are_said(run, points_csv: Path) -> None:
    assert "4 rows lie 20 times as far" in run("plan", "fit", points_csv, "--resamples", "20").err
    assert "rows lie" not in run("plan", "fit", points_csv, "--drop-highest", "5", "--resamples", "20").err


@pytest.fixture
def points_csv() -> Path:
    path = Path(__file__).parents[3] / "shared" / "data" / "scaling" / "chinchilla_points.csv"
    if not path.exists():
        pytest.skip("the public training runs are not here")
    return path
