"""Run by torchrun in test_rollout.py, and by one process alone: samples, trains, and writes what came of it.

two_ranks_rollout.py FOLDER KIND
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from modelworks.data.prompts import Prompts, Question
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.heads import ActorCritic
from modelworks.objectives.policy import Policy
from modelworks.parallel.ranks import rank
from modelworks.parallel.shard import joined, whole
from modelworks.train.answers import RolloutRecipe
from modelworks.train.loop import TrainRecipe, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.rewards import NamedReward
from modelworks.train.rollout import Rollouts, frozen_copy


def evens(answers):
    return [float(sum(int(each) % 2 == 0 for each in answer.answer.split())) for answer in answers]


def main():
    folder, kind = sys.argv[1:]
    torch.set_num_threads(1)
    with joined():
        torch.manual_seed(0)
        drops = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
        shape = {"vocab_size": 31, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 32}
        model = GPT2(GPT2Config(**shape, **drops, eos_token_id=30, initializer_range=0.3))
        draw = np.random.default_rng(0)
        prompts = Prompts([Question(draw.integers(0, 30, at % 4 + 1), str(at)) for at in range(6)])
        reference = frozen_copy(model)
        options = {"prompts": 5, "samples": 3, "max_tokens": 5, "minibatches": 2, "epochs": 2}
        if kind == "ppo":
            model = ActorCritic(model)
            options |= {"advantage": "gae", "kl": 0.1, "kl_target": 0.5, "whiten_advantages": True}
        stream = Rollouts(
            model, prompts, [NamedReward("evens", evens)], RolloutRecipe(**options), reference=reference, accumulate=2,
        )  # fmt: skip
        objective = Policy(vf=0.1) if kind == "ppo" else Policy(kl=0.04)
        recipe = TrainRecipe(steps=8, accumulate=2, optim=OptimRecipe(lr=1e-3, eps=1e-3))
        done = [
            (step.step, step.loss, step.grad_norm, step.weight, step.tokens, dict(step.metrics))
            for step in train(model, stream, objective, recipe)
        ]
        weights = whole(model.state_dict())
        if rank() == 0:
            torch.save({"done": done, "weights": weights}, Path(folder) / "result.pt")


if __name__ == "__main__":
    main()
