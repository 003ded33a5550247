"""`modelworks report`: a page in the run's folder or elsewhere, the numbers as JSON, and faults in one line."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def home(tmp_path, metrics_line):
    """A run of two steps."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "recipe.toml").write_text('kind = "pretrain"\nsteps = 9\n')
    about = {
        "kind": "pretrain",
        "model": "Llama",
        "steps": 9,
        "flops_per_token": 1.0,
        "peak_flops": 1e9,
        "device": "cpu",
    }
    steps = [
        metrics_line | {"steps": 9, "step": at, "total_tokens": 8 * at, "total_seconds": 1.0 * at} for at in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ({"run": about}, *steps)))
    return folder


def test_it_writes_a_page_and_prints_where_it_is(run, home, tmp_path):
    assert run("report", home).out == f"{home}/report.html\n"
    assert (home / "report.html").read_text().startswith("<!doctype html>")
    assert run("report", home, home, "--out", tmp_path / "new" / "two.html").out == f"{tmp_path}/new/two.html\n"
    assert "What differs in their recipes" in (tmp_path / "new" / "two.html").read_text()


def test_the_numbers_as_json(run, home):
    told = json.loads(run("report", home, "--watts", "90", "--json").out)
    assert told["report"] == f"{home}/report.html"
    (numbers,) = told["runs"]
    assert (numbers["steps_done"], numbers["tokens"], numbers["loss"], numbers["held_out_loss"]) == (2, 16, 2.0, None)
    assert numbers["watt_hours"] == pytest.approx(90 * 2 / 3600)


def test_faults_are_one_line(run, home, tmp_path):
    run("report", tmp_path).assert_one_line_error(f"{tmp_path}: there is no run")
    run("report", home, "--watts", "0").assert_one_line_error("watts", status=2)
    (tmp_path / "file").write_text("")
    run("report", home, "--out", tmp_path / "file" / "a.html").assert_one_line_error("file")
    with (home / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    run("report", home).assert_one_line_error("metrics.jsonl: line 4 is damaged")
