"""Runs on disk, told to a monitor: what the training loop writes, with and without answers beside it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modelworks.core.errors import ConfigError, DataError
from modelworks.feedback.watch import ANSWERS, COLUMNS, watch_run


@pytest.fixture
def run_folder(tmp_path, metrics_line):
    """Writes a run in which the gold falls while the reward rises."""

    def make(*, answers=False, names=("reward", "gold"), steps=160, tail=""):
        draw = np.random.default_rng(0)
        lines, said = [{"run": {"steps": 160}}], []
        for step in range(1, steps + 1):
            at = step / 160
            metrics = {names[0]: 3 * at + draw.normal() / 3, "kl": 5 * at}
            line = metrics_line | {"steps": 160, "step": step, "metrics": metrics}
            if len(names) > 1:
                line["evaluation"] = {names[1]: -2 * at + draw.normal() / 3}
            lines.append(line)
            for number in range(4 if answers else 0):
                score = metrics[names[0]] + draw.normal()
                told = {"step": step, "prompt": f"p{number}", "answer": f"word{draw.integers(1e6)} x", "reward": score}
                said.append(told | ({"gold": -2 * at + draw.normal()} if len(names) > 1 else {}))
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
        if answers:
            (tmp_path / ANSWERS).write_text("".join(json.dumps(line) + "\n" for line in said) + tail)
        return tmp_path

    return make


@pytest.mark.parametrize("answers", [False, True])
def test_a_run_that_hacked_its_reward_is_told(run_folder, answers):
    monitor = watch_run(run_folder(answers=answers, tail='{"step": 16'))
    (finding,) = monitor.findings
    assert (finding.name, finding.severity) == ("parted", "stop")
    assert len(monitor.column("distinct")[0]) == (160 if answers else 0)


def test_metrics_by_other_names(run_folder):
    home = run_folder(names=("score", "truth"))
    with pytest.raises(ConfigError, match="no metric is called 'reward'; there are score, kl"):
        watch_run(home)
    assert watch_run(home, columns=COLUMNS | {"reward": "score", "gold": "truth"}).findings[0].name == "parted"


def test_a_run_without_a_gold_and_one_just_begun(run_folder):
    assert watch_run(run_folder(names=("reward",))).findings == []
    assert watch_run(run_folder(steps=3)).findings == []


def test_damaged_answers_are_named(run_folder):
    home = run_folder(answers=True, steps=2)
    path = home / ANSWERS
    whole = path.read_text()
    for line, said in (
        ("{", "line 9 is damaged"),
        ("[]", "line 9 is damaged"),
        ('{"step": 1}', "a line without"),
        ('{"step": 1, "prompt": "p", "answer": "x", "reward": 1}', "step 1 has gold for some"),
    ):
        path.write_text(f"{whole}{line}\n")
        with pytest.raises(DataError, match=said):
            watch_run(home)
