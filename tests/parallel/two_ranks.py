"""Run by torchrun in test_shard.py, and by one process alone: trains, saves, and writes what came of it.

two_ranks.py FOLDER PARALLEL OPTIM STEPS [resume]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from modelworks.core.errors import Stopped
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.objectives.causal_lm import CausalLM
from modelworks.parallel.ranks import rank, world_size
from modelworks.parallel.shard import joined, whole
from modelworks.train.checkpoint import Checkpoints
from modelworks.train.loop import TrainRecipe, mean_loss, train
from modelworks.train.optim import OptimRecipe

ROWS = 4  # of a step, over all ranks


class Rows:
    """Four rows a step, of which each rank has its part; their weights differ."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while True:
            generator = torch.Generator().manual_seed(self.at)
            ids_BT = torch.randint(0, 31, (ROWS, 9), generator=generator)
            weights_BT = torch.randint(0, 3, (ROWS, 8), generator=generator) / 2
            weights_BT[1] = 0
            weights_BT[3] = 0 if self.at == 1 else weights_BT[3]  # the second of two ranks has nothing that counts
            part = slice(rank(), ROWS, world_size())
            self.at += 1
            yield {"input_ids": ids_BT[part, :-1], "targets": ids_BT[part, 1:], "weights": weights_BT[part]}

    def state(self):
        return {"at": self.at}

    def restore(self, state):
        self.at = state["at"]


def main():
    folder, parallel, optim, steps, *resume = sys.argv[1:]
    torch.set_num_threads(1)
    with joined():
        torch.manual_seed(0)
        drops = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
        shape = {"vocab_size": 31, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 32}
        model = GPT2(GPT2Config(**shape, **drops))
        recipe = TrainRecipe(
            steps=6, accumulate=2, ema=0.9, parallel=parallel, optim=OptimRecipe(name=optim, lr=1e-2, eps=1e-3)
        )
        done = []
        with Checkpoints(folder) as checkpoints:
            try:
                for step in train(model, Rows(), CausalLM(), recipe, checkpoints=checkpoints, resume=bool(resume)):
                    done.append((step.step, step.loss, step.grad_norm, step.weight, step.tokens, step.metrics["nll"]))
                    if step.step == int(steps) < recipe.steps and rank() == world_size() - 1:
                        os.kill(os.getpid(), signal.SIGTERM)  # one rank is told; all have to stop
            except Stopped:
                done.append("stopped")
        held = mean_loss(model, (batch for batch, _ in zip(Rows(), range(3))), CausalLM())
        weights = whole(model.state_dict())
        if rank() == 0:
            torch.save({"done": done, "held": held, "weights": weights}, Path(folder) / "result.pt")


if __name__ == "__main__":
    main()
