"""The report: which way a ratio points, and a form that readers of its JSON can rely on."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.core.log import console, warn_once
from modelworks.engine.bench.compare import OWN, Outcome, Task
from modelworks.engine.bench.report import Report, Watch, _times, describe_model, make_report

report_module = "modelworks.engine.bench.report"
TASK = Task(model="/x/model.gguf", threads=2, concurrency=(1, 16))


def outcome(speed: float, other: float, tokens: list[int], fault: str | None = None) -> Outcome:
    samples = {name: [speed, 2 * speed, 3 * speed] for name in ("decode", "prefill", "batch_1", "batch_16")}
    samples |= {name: [other, 2 * other, 3 * other] for name in ("memory", "first_token", "memory_batch")}
    return Outcome({"version": "1"}, samples, {"decode": tokens}, fault)


def report(**outcomes: Outcome) -> Report:
    model = {"ref": "starter", "name": "model.gguf", "bytes": 5, "sha256": None}
    return make_report(
        TASK,
        {OWN: outcome(30, 10, [1, 2, 3])} | outcomes,
        rounds=1,
        model=model,
        machine=Watch.begin().describe(),
        missing={"transformers": "not found"},
    )


def test_a_ratio_above_one_is_for_modelworks_whatever_is_measured() -> None:
    found = report(peer=outcome(20, 40, [1, 2, 4]))
    ratios = {measure.name: measure.ratios["peer"] for measure in found.measures}
    assert ratios == {
        "decode": 1.5, "prefill": 1.5, "memory": 4, "first_token": 4, "batch_1": 1.5, "batch_16": 1.5, "memory_batch": 4
    }  # fmt: skip
    decode, memory = found.measures[0], found.measures[2]
    assert (decode.figures[OWN].median, decode.figures[OWN].best) == (60, 90)
    assert (memory.figures[OWN].median, memory.figures[OWN].best) == (20, 10)
    assert decode.best_ratios == {"peer": 1.5}
    assert found.same_tokens == {"peer": 2}


def test_what_a_peer_lacks_is_left_out_and_said() -> None:
    half = Outcome({"version": "1"}, {"decode": [7.0]}, {}, "it ended")
    found = report(peer=half)
    assert found.missing == {"transformers": "not found", "peer": "it ended"}
    assert [set(measure.figures) for measure in found.measures] == [{OWN, "peer"}] + [{OWN}] * 6
    assert found.same_tokens == {}


def test_the_form_of_the_json_stays() -> None:
    value = json.loads(json.dumps(report(peer=outcome(20, 40, [1])).to_json(), allow_nan=False))
    assert value["schema"] == 1
    assert set(value) == {
        "schema", "date", "model", "machine", "settings", "about", "missing", "same_tokens", "measures", "versions"
    }  # fmt: skip
    assert set(value["machine"]) == {"cpu", "cores", "memory_mib", "system", "load_average", "others", "busy"}
    assert set(value["settings"]) == {
        "threads", "context", "tokens", "concurrency", "answer", "passes", "kinds", "weights", "rounds"
    }  # fmt: skip
    for measure in value["measures"]:
        assert set(measure) == {"name", "label", "unit", "higher_is_better", "figures", "ratios", "best_ratios"}
        for figure in measure["figures"].values():
            assert set(figure) == {"median", "best", "samples"}
    assert value["versions"]["modelworks"]
    assert [measure["name"] for measure in value["measures"]] == list(TASK.measures)
    assert len({measure["label"] for measure in value["measures"]}) == len(TASK.measures)


def test_the_machine_is_named() -> None:
    machine = Watch.begin().describe()
    assert machine["cpu"]
    assert machine["cores"] >= 1


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.0, 0.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    for cached in (console, warn_once):
        cached.cache_clear()


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (1.9, True)])
def test_a_machine_that_is_busy_before_is_warned_of(
    two_cores: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], load: float, busy: bool
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(f"{report_module}._times", lambda: None)
    machine = Watch.begin().describe()
    assert (machine["busy"], machine["load_average"], machine["others"]) == (busy, load, None)
    said = " ".join(capsys.readouterr().err.split())
    assert ("the machine is busy (load average 1.90 on 2 cores)" in said) == busy


@pytest.mark.parametrize(("worked", "others", "busy"), [(11.0, 0.05, False), (15.0, 0.25, True)])
def test_others_that_work_during_the_run_are_warned_of(
    two_cores: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], worked: float,
    others: float, busy: bool,
) -> None:  # fmt: skip
    """Of 20 seconds of two processors this run took 10."""
    times = iter([(100.0, 50.0, 7.0), (120.0, 50.0 + worked, 17.0)])
    monkeypatch.setattr(f"{report_module}._times", lambda: next(times))
    machine = Watch.begin().describe()
    assert (machine["busy"], machine["others"]) == (busy, others)
    assert ("other programs took 25% of the processor" in " ".join(capsys.readouterr().err.split())) == busy


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc")
def test_the_work_of_a_run_is_not_that_of_others() -> None:
    before = _times()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 1: pass"], check=True)
    after = _times()
    assert before is not None
    assert after is not None
    passed, worked, own = (b - a for a, b in zip(before, after))
    assert 0.95 <= own < 3
    assert own - 0.1 <= worked <= passed + 0.1  # in ticks of 10 ms


def test_a_model_is_named_by_its_size_and_hash(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"12345")
    sha = hashlib.sha256(b"12345").hexdigest()
    assert describe_model("starter", file) == {"ref": "starter", "name": "m.gguf", "bytes": 5, "sha256": sha}
    assert describe_model("x", tmp_path) == {"ref": "x", "name": tmp_path.name, "bytes": 5, "sha256": None}
