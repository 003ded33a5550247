"""What is written of a run, and that going on cuts off what came after the checkpoint."""

from __future__ import annotations

import json
import math

import pytest

from modelworks.core.errors import ConfigError, DataError
from modelworks.train.loop import Step
from modelworks.train.record import METRICS, Recorder, read_metrics

ABOUT = {"steps": 9, "flops_per_token": 100.0, "peak_flops": 1000.0}


def step(number, **changes):
    made = {
        "loss": 2.0,
        "metrics": {"nll": 2.0},
        "weight": 3.0,
        "tokens": 8,
        "lr": 0.1,
        "grad_norm": 1.0,
        "seconds": 2.0,
    }
    return Step(step=number, **made | changes)


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().rstrip("\n").split("\n")]


def test_each_step_is_a_line_and_sums_run_on(tmp_path):
    with Recorder(tmp_path, ABOUT) as recorder:
        recorder.add(step(1))
        record = recorder.add(step(2, evaluation={"loss": 1.5, "samples": ["Once"]}))
    assert (record.total_tokens, record.total_seconds, record.total_flops) == (16, 4.0, 1600.0)
    assert record.tokens_per_second == 4.0
    assert record.mfu == pytest.approx(0.4)
    first, one, two = lines(tmp_path)
    assert first == {"run": ABOUT}
    assert one["step"] == 1
    assert one["metrics"] == {"nll": 2.0}
    assert "evaluation" not in one
    assert "skipped" not in one
    assert two["evaluation"] == {"loss": 1.5, "samples": ["Once"]}
    assert two["total_tokens"] == 16


def test_a_skipped_step_says_why_and_stays_json(tmp_path):
    with Recorder(tmp_path, ABOUT) as recorder:
        recorder.add(step(1, loss=math.nan, skipped="loss is nan", rolled_back_to=0))
    line = lines(tmp_path)[1]
    assert (line["loss"], line["skipped"], line["rolled_back_to"]) == ("nan", "loss is nan", 0)


def test_going_on_cuts_off_what_came_after_the_checkpoint(tmp_path):
    with Recorder(tmp_path, ABOUT) as recorder:
        for number in (1, 2, 3, 2, 3, 4):  # went back to 1 once, and saved at 2 after that
            recorder.add(step(number))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 5, "lo')  # killed while it wrote
    with Recorder(tmp_path, ABOUT, steps_done=2) as recorder:
        recorder.add(step(3))
    assert [line.get("step") for line in lines(tmp_path)] == [None, 1, 2, 3, 2, 3]
    assert lines(tmp_path)[-1]["total_tokens"] == 5 * 8


def test_event_files_hold_the_numbers(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Recorder(tmp_path, ABOUT, tensorboard=True) as recorder:
        recorder.add(step(1, evaluation={"loss": 1.5, "samples": ["Once"]}))
        recorder.add(step(2, loss=None, grad_norm=None, skipped="nothing in it counts"))
    read = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "lr", "nll", "mfu", "tokens per second", "evaluation/loss"} <= set(read.Tags()["scalars"])
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 2.0)]


def test_records_are_read_as_they_were_written(tmp_path):
    with Recorder(tmp_path, ABOUT) as recorder:
        made = [
            recorder.add(step(1, evaluation={"loss": math.inf, "samples": ["a\u2028b\x85c\nd"]})),
            recorder.add(step(2, loss=None, grad_norm=None, metrics={}, skipped="nothing in it counts")),
            recorder.add(step(3, skipped="loss is 9", rolled_back_to=1)),
        ]
    assert read_metrics(tmp_path) == (ABOUT, made)
    with Recorder(tmp_path, ABOUT, steps_done=3):
        pass  # goes on after lines with line separators in their texts
    assert read_metrics(tmp_path) == (ABOUT, made)


def test_numbers_that_json_lacks_come_back(tmp_path):
    with Recorder(tmp_path, ABOUT) as recorder:
        recorder.add(step(1, loss=math.nan, grad_norm=-math.inf, metrics={"nll": math.nan}))
    _, (record,) = read_metrics(tmp_path)
    assert math.isnan(record.step.loss)
    assert record.step.grad_norm == -math.inf
    assert math.isnan(record.step.metrics["nll"])


def test_a_last_line_without_its_end_is_passed_over_at_any_byte(tmp_path):
    with Recorder(tmp_path, ABOUT) as recorder:
        recorder.add(step(1))
        recorder.add(step(2, evaluation={"samples": ["Grüße, 世界"]}))
    data = (tmp_path / METRICS).read_bytes()
    before = data.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(before, len(data)):
        (tmp_path / METRICS).write_bytes(data[:end])
        assert [record.step.step for record in read_metrics(tmp_path)[1]] == [1]


@pytest.mark.parametrize(
    ("number", "line", "says"),
    [
        (1, b'{"step": 1}', "line 1 is damaged: the first line of a run says what it is"),
        (2, b'{"step": 1, "lo', "line 2 is damaged: not valid JSON"),
        (2, b"", "line 2 is damaged: not valid JSON"),
        (3, b"\xff\xfe", "line 3 is damaged: not valid JSON"),
        (3, b"[" * 100_000, "line 3 is damaged: not valid JSON"),
        (3, b"7", "line 3 is damaged: it is no JSON object"),
        (3, b'{"step": "two"}', "line 3 is damaged: .*step.step: must be a whole number, got 'two'"),
        (3, b"{}", "line 3 is damaged: .*step: missing"),
    ],
)
def test_other_damage_is_told_with_its_line(tmp_path, number, line, says):
    with Recorder(tmp_path, ABOUT) as recorder:
        recorder.add(step(1))
        recorder.add(step(2))
    there = (tmp_path / METRICS).read_bytes().split(b"\n")
    there[number - 1] = line
    (tmp_path / METRICS).write_bytes(b"\n".join(there))
    with pytest.raises(DataError, match=says):
        read_metrics(tmp_path)


def test_a_folder_without_a_run_is_said(tmp_path):
    with pytest.raises(ConfigError, match="there is no run"):
        read_metrics(tmp_path)
    with pytest.raises(ConfigError, match="there is no run"):
        read_metrics(tmp_path / "gone")
    (tmp_path / METRICS).write_text('{"run": {"st')
    with pytest.raises(ConfigError, match="nothing is written in it yet"):
        read_metrics(tmp_path)
