"""`modelworks bench`, on a small model and with peers that are not there."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modelworks.engine.bench.compare import Side
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.save import save

Run = Callable[..., Any]
SMALL = ("--quick", "--context", "8", "--concurrency", "1,2", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {
        "model_type": "llama",
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 48,
    }
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf(shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    target = tmp_path_factory.mktemp("bench") / "tiny"
    save(model, target)
    return target


def test_a_table_a_file_and_a_chart(run: Run, folder: Path, tmp_path: Path) -> None:
    file, chart = tmp_path / "bench.json", tmp_path / "bench.svg"
    result = run("bench", folder, *SMALL, "--peers", "none", "--json", file, "--chart", chart)
    assert result.status == 0, result.err
    value = json.loads(file.read_text())
    names = ["decode", "prefill", "memory", "first_token", "batch_1", "batch_2", "memory_batch"]
    assert [measure["name"] for measure in value["measures"]] == names
    assert value["settings"]["concurrency"] == [1, 2]
    assert value["settings"]["rounds"] == 1
    assert value["model"]["name"] == "tiny"
    for measure in value["measures"]:
        figure = measure["figures"]["modelworks"]
        assert all(math.isfinite(sample) and sample > 0 for sample in figure["samples"])
        assert re.search(rf"^{measure['label']} +{measure['unit']} +[\d,.]+$", result.out, re.MULTILINE), result.out
        assert measure["label"] in chart.read_text()


def test_json_on_standard_output_is_all_there_is(run: Run, folder: Path) -> None:
    result = run("bench", folder, *SMALL, "--peers", "none", "--json", "-", "--weights", "q8", "--rounds", "2")
    value = json.loads(result.out)
    assert value["settings"]["weights"] == "q8"
    assert value["settings"]["rounds"] == 2
    assert len(value["measures"][0]["figures"]["modelworks"]["samples"]) == 4
    assert value["missing"] == {}


def test_a_peer_that_fails_is_one_line(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Side("llama.cpp", (sys.executable, "-c", "raise SystemExit('no such\\x1b[31m thing')"))
    monkeypatch.setattr(
        "modelworks.engine.bench.compare.find_peers", lambda *_: ([broken], {"transformers": "not found"})
    )
    result = run("bench", folder, *SMALL)
    assert result.status == 0
    said = " ".join(result.err.split())
    assert "transformers: not found" in said
    assert "llama.cpp is left out from where it failed: it ended with status 1: no such\\x1b[31m thing" in said
    assert "Traceback" not in result.err
    assert "Decode" in result.out


@pytest.mark.parametrize("busy", [False, True])
def test_peers_are_compared_unless_the_machine_was_busy(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    said = 'print(\'{"about": {"version": "9"}}\\n{"measure": "decode", "samples": [1e-3]}\\n{"done": true}\')'
    peer = Side("llama.cpp", (sys.executable, "-c", said))
    monkeypatch.setattr("modelworks.engine.bench.compare.find_peers", lambda *_: ([peer], {}))
    monkeypatch.setattr("os.getloadavg", lambda: (100.0 if busy else 0.0, 0.0, 0.0))
    monkeypatch.setattr("modelworks.engine.bench.report._times", lambda: None)
    result = run("bench", folder, *SMALL)
    assert result.status == 0, result.err
    assert re.search(r"^Decode +tok/s +[\d,.]+ +0\.00" + ("$" if busy else r" +[\d,]+×$"), result.out, re.MULTILINE)
    assert ("ratio" in result.out) == (not busy)
    assert ("nothing is compared" in result.out) == busy


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["--chart", "x.gif"], "a chart is .svg, .html, .png", 1),
        (["--chart", "/gone/x.svg"], "name a file in a folder that exists", 1),
        (["--json", "/gone/x.json"], "name a file in a folder that exists", 1),
        (["--peer-python", "/gone/python"], "does not run as a Python interpreter", 1),
        (["--concurrency", "1,many"], "--concurrency", 2),
        (["--concurrency", "0"], "--concurrency", 2),
        (["--concurrency", ""], "--concurrency", 2),
        (["--rounds", "0"], "--rounds", 2),
        (["--threads", "0"], "--threads", 2),
        (["--weights", "q5"], "--weights", 2),
        (["--peers", "vllm"], "--peers", 2),
        (["--context", "0"], "--context", 2),
    ],
)
def test_what_cannot_be_is_said_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str, status: int
) -> None:
    monkeypatch.setattr("modelworks.engine.bench.compare.compare", None)  # nothing is measured
    run("bench", "starter", *arguments).assert_one_line_error(said, status=status)


def test_a_model_that_is_not_there(run: Run) -> None:
    run("bench", "gone.gguf", "--peers", "none").assert_one_line_error("gone.gguf: no such file or folder")


def test_a_file_that_is_no_model(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.gguf"
    file.write_text("not a model")
    result = run("bench", file, *SMALL, "--peers", "none")
    assert result.status == 1
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith(f"modelworks: {file}: ")
    assert result.err.count(str(file)) == 1


def test_a_context_that_is_too_long(run: Run, folder: Path) -> None:
    result = run("bench", folder, "--peers", "none")
    assert result.status == 1
    assert "made for 48 tokens" in result.err
    assert "lower --context" in result.err
