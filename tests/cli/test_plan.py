"""`modelworks plan`: what a person reads, what a program reads, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.scaling.plan import build, size_of

LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def test_a_budget_ends_in_a_config(run, tmp_path: Path) -> None:
    result = run("plan", "--flops", "1e17", "--peak", "1e12", "--context", "256", "--write", tmp_path / "c.json")
    assert result.status == 0
    for part in ("1e+17 FLOPs", "tokens a parameter", "95%", "at 30% (assumed) of 1,000 GFLOP/s", "Llama of"):
        assert part in result.out
    assert "times outside the runs" in result.err  # the smallest run of the law had 1.4e18
    config = json.loads((tmp_path / "c.json").read_text())
    said = json.loads(run("plan", "--flops", "1e17", "--peak", "1e12", "--json").out)
    assert size_of(build(config)).total == pytest.approx(said["best"]["N"], rel=0.1)
    assert said["takes"]["seconds"] == pytest.approx(said["takes"]["flops"] / 0.3e12)


def test_hours_are_flops_of_this_machine(run) -> None:
    said = json.loads(run("plan", "--hours", "10", "--mfu", "0.5", "--peak", "1e11", "--json").out)
    assert said["best"]["flops"] == pytest.approx(10 * 3600 * 0.5e11)


def test_the_machine_is_measured_where_nothing_is_said(run) -> None:
    said = json.loads(run("plan", "--hours", "10", "--dtype", "float32", "--json").out)
    assert said["takes"]["peak_measured"]
    assert said["takes"]["peak"] > 1e8


def test_a_model_is_counted_from_its_config(run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    for ref in (tmp_path, tmp_path / "config.json"):
        said = json.loads(run("plan", "--model", ref, "--tokens", "1e6", "--peak", "1e10", "--json").out)
        assert said["parameters"]["total"] == size_of(build(LLAMA)).total
        assert said["takes"]["context"] == 128
        assert said["judgement"]["verdict"] == "over-trained" or said["judgement"]["factor"] > 0
    shown = run("plan", "--model", tmp_path, "--tokens", "1e6", "--unique", "1e5", "--peak", "1e10").out
    assert f"{size_of(build(LLAMA)).total:,}" in shown
    assert "10.0 epochs" in shown


def test_known_models_are_judged_by_both_laws(run) -> None:
    shown = run("plan", "--preset", "GPT-3").out
    assert "under-trained by 3.3×" in shown
    assert "over-trained by 3×" in shown
    assert "without embeddings" in shown
    everything = json.loads(run("plan", "--preset", "all", "--json").out)
    assert {"palm", "chinchilla", "llama2-7b", "llama3-8b"} <= {one["name"] for one in everything}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "got none"),
        (["--flops", "1e20", "--hours", "2"], "got --hours and --flops"),
        (["--preset", "gpt-5"], "'gpt-5' is unknown; there are gpt-3"),
        (["--model", "nowhere"], "no such file or folder"),
        (["--preset", "palm", "--write", "x.json"], "--write writes the model that a budget leads to"),
        (["--flops", "1e12", "--peak", "1e9"], "no sensible shape"),
        (["--flops", "1e20", "--law", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_makes_no_plan_is_refused(run, argv: list[str], said: str) -> None:
    run("plan", *argv).assert_one_line_error(said)


@pytest.mark.parametrize("argv", [["--hours", "-1"], ["--mfu", "1.5"], ["--optimizer", "lion"], ["--flops", "many"]])
def test_wrong_usage_is_named(run, argv: list[str]) -> None:
    run("plan", *argv).assert_one_line_error(argv[0], status=2)
