"""A training run that is killed ten times goes on each time, and ends with the weights of one that never was.

The run has all that has a state: dropout, Muon and AdamW, a schedule, an average of the weights, a place in the data. A
child process trains it and saves every second step; it is killed (SIGKILL) at a random moment after a random step,
amid a step or a checkpoint as it happens, and started again. Averaged weights and every step's loss have to be equal
bit for bit.

    python benchmarks/resume.py [--kills 10] [--steps 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.objectives.causal_lm import CausalLM
from modelworks.train.checkpoint import Checkpoints, seed_everything
from modelworks.train.loop import TrainRecipe, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.schedule import ScheduleRecipe
from shakespeare import TEXT, Characters

WEIGHTS = "weights.pt"


def child(folder: Path, steps: int) -> None:
    """Train, or go on; print each step's loss as it is done, and write the weights at the end."""
    text = TEXT.read_text()
    symbols = sorted(set(text))
    ids = torch.tensor([symbols.index(character) for character in text[:100_000]])
    seed_everything(0)
    recipe = TrainRecipe(
        steps=steps,
        accumulate=2,
        ema=0.99,
        save_every=2,
        optim=OptimRecipe(name="muon", lr=3e-3),
        schedule=ScheduleRecipe(name="wsd", warmup=10),
    )
    # Its dropout is 0.1.
    model = GPT2(GPT2Config(vocab_size=len(symbols), n_positions=64, n_embd=64, n_layer=2, n_head=2, n_inner=256))
    with Checkpoints(folder) as checkpoints:
        for step in train(model, Characters(ids, 0), CausalLM(), recipe, checkpoints=checkpoints, resume=True):
            print(json.dumps([step.step, step.loss, step.grad_norm]), flush=True)
    torch.save(model.state_dict(), folder / WEIGHTS)


def start(folder: Path, steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--steps", str(steps), "--child", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read(process: subprocess.Popen[str], told: dict[int, list[float]], until: int | None = None) -> bool:
    """Take in what a child says, up to a step; False where a step came out otherwise than it had before."""
    assert process.stdout is not None
    same = True
    for line in process.stdout:
        step, *numbers = json.loads(line)
        same &= told.setdefault(step, numbers) == numbers
        if until is not None and step >= until:
            break
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.steps)
        return 0
    drawn = random.Random(options.seed)
    at = sorted(drawn.sample(range(1, options.steps - 2), options.kills))
    with tempfile.TemporaryDirectory() as home:
        whole, killed = Path(home, "whole"), Path(home, "killed")
        expected: dict[int, list[float]] = {}
        process = start(whole, options.steps)
        read(process, expected)
        assert process.wait() == 0
        told, same = dict(expected), True
        for step in at:
            process = start(killed, options.steps)
            same &= read(process, told, until=step)
            time.sleep(drawn.random() * 0.2)
            process.kill()
            process.wait()
            saved = sorted(path.name for path in killed.glob("step-*"))
            print(f"  killed after step {step}; whole checkpoints: {', '.join(saved) or 'none'}", flush=True)
        process = start(killed, options.steps)
        same &= read(process, told)
        assert process.wait() == 0
        weights = [torch.load(folder / WEIGHTS, weights_only=True) for folder in (whole, killed)]
        equal = sum(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        left = list(killed.glob(".step-*"))
    holds = same and equal == len(weights[0]) and not left
    result = {
        "name": "resume",
        "ours": equal,
        "peer": len(weights[0]),
        "ratio": equal / len(weights[0]),
        "unit": "tensors equal bit for bit",
        "bar": "all of them, and every step's loss and gradient norm",
        "holds": holds,
        "notes": f"killed after steps {at} of {options.steps}; peer is the run that never was; "
        f"losses {'equal' if same else 'DIFFER'}",
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
