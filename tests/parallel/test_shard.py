"""Two processes are one: the same steps within rounding, and checkpoints that the other number of them goes on from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from modelworks.parallel.shard import copy_state, joined, spread, whole

SCRIPT = Path(__file__).with_name("two_ranks.py")


def run(folder, parallel, optim, *, ranks, steps=6, resume=False):
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launch, str(SCRIPT), str(folder), parallel, optim, str(steps)]
    done = subprocess.run(
        command + ["resume"] * resume, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "result.pt", weights_only=True)


def assert_same(one, other, optim):
    tolerance = 1e-4 if optim == "muon" else 1e-5  # Muon iterates in bfloat16
    assert len(one["done"]) == len(other["done"])
    for a, b in zip(one["done"], other["done"]):
        assert a == pytest.approx(b, abs=tolerance)
    assert one["held"] == pytest.approx(other["held"], abs=tolerance)
    torch.testing.assert_close(one["weights"], other["weights"], atol=5e-4 if optim == "muon" else 1e-5, rtol=0)


# Slow since one of about forty runs on a busy machine ended in an abort within torch, after its work was done.
@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "optim"), [("fsdp", "adamw"), ("ddp", "muon")])
def test_two_processes_equal_one(tmp_path, parallel, optim):
    """transformers#34191 over ranks: their token losses are one sum over one weight."""
    one = run(tmp_path / "one", parallel, optim, ranks=1)
    two = run(tmp_path / "two", parallel, optim, ranks=2)
    assert_same(one, two, optim)


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "optim"), [("fsdp", "adamw"), ("ddp", "muon")])
def test_saved_on_two_ranks_it_goes_on_on_one_and_back(tmp_path, parallel, optim):
    whole_run = run(tmp_path / "whole", parallel, optim, ranks=1)
    for first, second in ((2, 1), (1, 2)):
        folder = tmp_path / f"{first} then {second}"
        stopped = run(folder, parallel, optim, ranks=first, steps=3)
        resumed = run(folder, parallel, optim, ranks=second, resume=True)
        assert stopped["done"].pop() == "stopped"
        assert_same(whole_run, resumed | {"done": stopped["done"] + resumed["done"]}, optim)


def test_alone_everything_is_whole_already(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    tensor = torch.ones(2)
    assert whole({"a": [tensor, (1, "b")]}) == {"a": [tensor, (1, "b")]}
    assert spread(tensor, torch.zeros(2)) is tensor
    with joined():
        assert not torch.distributed.is_initialized()
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    copy_state(one.state_dict(), other.state_dict())
    torch.testing.assert_close(one.state_dict(), other.state_dict())
