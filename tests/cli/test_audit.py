"""`modelworks audit`: what is named is looked at, and faults are one line."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def hacked(tmp_path, metrics_line):
    """A run whose reward rises while its gold falls."""
    folder = tmp_path / "hacked"
    folder.mkdir()
    steps = [
        metrics_line | {"steps": 96, "step": at, "metrics": {"score": at + at % 3, "gold": -at + at % 5, "kl": at / 10}}
        for at in range(1, 97)
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in ({"run": {"steps": 96}}, *steps)), encoding="utf-8"
    )
    return folder


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [("a?", "one two", "one"), ("b?", "one", "one two three"), ("c?", "same", "same")]
    lines = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_run_that_hacked_its_reward(run, hacked, tmp_path):
    done = run("audit", hacked, "--reward-metric", "score", "--curve", tmp_path / "curve.svg")
    assert done.out.splitlines()[0] == f"{hacked}/audit.html"
    assert "stop: parted" in done.out
    assert (hacked / "audit.html").read_text().startswith("<!doctype html>")
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_a_run_that_is_sound_or_too_short(run, hacked):
    names = ("--reward-metric", "kl", "--gold-metric", "kl", "--json")
    assert json.loads(run("audit", hacked, *names).out)["findings"] == []
    assert "nothing is wrong by its tests" in run("audit", hacked, *names[:-1]).out
    assert "shorter than two windows of 64 steps" in run("audit", hacked, *names[:-1], "--window", "64").out


def test_a_reward_its_pairs_and_wins_as_json(run, pairs, tmp_path):
    (tmp_path / "wins.jsonl").write_text('{"win": 1, "answer": "a b", "base": "c"}\n' * 5)
    out = tmp_path / "a.html"
    done = run(
        "audit", "--reward", "length", "--pairs", pairs, "--wins", tmp_path / "wins.jsonl", "--out", out, "--json"
    )
    told = json.loads(done.out)
    assert told["report"] == str(out)
    assert told["left_out"] == {"both answers are the same": 1}
    assert told["reward"]["right_where_shorter"] == [0, 1]
    assert told["wins"]["rate"] == 1
    assert {one["trap"]: one["resisted"] for one in told["probes"]}["long"] == 0
    text = run("audit", "--reward", "length", "--pairs", pairs, "--out", out).out
    assert "trap: long" in text
    assert "the longer answer wins 1 of 2" in text
    assert "left out: both answers are the same" in text


def test_faults_are_one_line(run, hacked, pairs, tmp_path):
    run("audit").assert_one_line_error("nothing to look at")
    run("audit", tmp_path).assert_one_line_error("there is no run")
    run("audit", hacked).assert_one_line_error("no metric is called 'reward'; there are score, gold, kl")
    run("audit", "--reward", "wit", "--pairs", pairs).assert_one_line_error("'wit' is no reward")
    run("audit", "--pairs", pairs, "--probes", pairs).assert_one_line_error("name it by --reward")
    run("audit", hacked, "--curve", "curve.gif").assert_one_line_error("curve.gif: a picture is")
    run("audit", "--pairs", pairs, "--curve", "curve.svg").assert_one_line_error("--curve is of a run")
    run("audit", hacked, "--window", "4").assert_one_line_error("window", status=2)
    (tmp_path / "broken.py").write_text("def score(answered):\n    return [float('nan')] * len(answered)\n")
    run("audit", "--reward", "no.such:score").assert_one_line_error("No module named")
