"""A task small enough to be enumerated: do DPO and PPO reach the optimum that is known in closed form?

A prompt is one of two tokens, an answer is two tokens of four, so a tiny GPT-2 gives each of 16 answers a probability
that can be read off. Rewards from 0 to 3 are known. What both methods promise is pi ~ ref exp(r / beta), beta = 0.5,
with the model before training as ref. DPO sees every pair of answers, each way around as often as Bradley-Terry has it;
PPO sees only rewards of what it samples, with the divergence as a price in them. The measure is the total variation
from the optimum, the worse of the two prompts; that of the untrained model is the peer.

    python benchmarks/tabular.py [--dpo-steps 150] [--generations 200] [--seeds 3]

Each run is kept in the work folder when it is done; what is there is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelworks.core.paths import cache_dir
from modelworks.data.batch import Batch
from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.data.prompts import Prompts, Question
from modelworks.models.base import LanguageModel
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.heads import ActorCritic
from modelworks.objectives.completions import completions
from modelworks.objectives.policy import Policy
from modelworks.objectives.preference import Preference
from modelworks.train.answers import RolloutRecipe
from modelworks.train.checkpoint import seed_everything
from modelworks.train.loop import TrainRecipe
from modelworks.train.optim import OptimRecipe
from modelworks.train.rewards import Answered, NamedReward
from modelworks.train.rollout import Rollouts, frozen_copy
from modelworks.train.schedule import ScheduleRecipe
from support.runs import kept, train_quietly

LETTERS, LENGTH, PROMPTS, BETA = 4, 2, 2, 0.5
ANSWERS = list(itertools.product(range(LETTERS), repeat=LENGTH))
BARS = {"dpo": 0.01, "ppo": 0.05}


def build() -> GPT2:
    """A new model, whose answers are not equally likely.

    Its positions are learned: without any, a token is to attention what the same token twice is, and some
    distributions cannot be represented.
    """
    config = {
        "vocab_size": LETTERS,
        "n_positions": 8,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 64,
        "initializer_range": 0.3,
        "eos_token_id": None,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0),
    }
    return GPT2(GPT2Config.from_hf(config))


def rewards_of(seed: int) -> Tensor:
    """What each answer to each prompt is worth, (prompts, answers)."""
    return torch.rand(PROMPTS, len(ANSWERS), generator=torch.Generator().manual_seed(seed)) * 3


def rows(pairs: bool, rewards: Tensor) -> list[Branches]:
    """All answers of a prompt in a row; or all pairs, the first preferred, weighted by how often it is."""
    found = []
    for prompt in range(PROMPTS):
        each = [Branch(np.array(answer), np.ones(LENGTH, np.float32)) for answer in ANSWERS]
        if not pairs:
            found.append(Branches(np.array([prompt]), each))
            continue
        for better, worse in itertools.permutations(range(len(ANSWERS)), 2):
            weight = torch.sigmoid(rewards[prompt, better] - rewards[prompt, worse])
            columns = {"pair_weights": weight[None].numpy(), "margins": np.zeros(1, np.float32)}
            found.append(Branches(np.array([prompt]), (each[better], each[worse]), columns))
    return found


@torch.no_grad()
def log_probabilities(model: LanguageModel) -> Tensor:
    """Of every answer to every prompt, by enumeration."""
    batch = branch_batch(rows(False, torch.zeros(0)), pad_id=0)
    return completions(model, batch, PROMPTS * len(ANSWERS)).logps_S.view(PROMPTS, -1)


def variation(logps: Tensor, optimum: Tensor) -> float:
    """The total variation, at the prompt where it is larger."""
    return float((logps.exp() - optimum).abs().sum(-1).max() / 2)


class Again:
    """One batch, without end."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[Batch]:
        return itertools.repeat(self._batch)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...


def dpo(model: GPT2, rewards: Tensor, steps: int) -> None:
    batch = branch_batch(rows(True, rewards), pad_id=0)
    with torch.no_grad():
        batch["reference"] = completions(model, batch, 2 * len(batch["pair_weights"])).logps_S
    recipe = TrainRecipe(
        steps=steps,
        optim=OptimRecipe(lr=5e-3, weight_decay=0.0),
        schedule=ScheduleRecipe(warmup=10, floor=0.01),
    )
    train_quietly("dpo", model, Again(batch), Preference(loss="dpo", beta=BETA), recipe)


def ppo(model: GPT2, rewards: Tensor, generations: int, seed: int) -> None:
    def reward(answers: Sequence[Answered]) -> list[float]:
        places = [ANSWERS.index(tuple(map(int, answer.answer.split()))) for answer in answers]
        return [float(rewards[answer.extra["prompt"], at]) for answer, at in zip(answers, places)]

    rollout = RolloutRecipe(
        prompts=256,
        samples=1,
        max_tokens=LENGTH,
        epochs=2,
        minibatches=2,
        advantage="gae",
        kl=BETA,
        whiten_advantages=True,
        sample_batch=256,
        score_batch=256,
    )
    recipe = TrainRecipe(
        steps=generations * rollout.steps,
        optim=OptimRecipe(lr=3e-3, weight_decay=0.0),
        schedule=ScheduleRecipe(warmup=10, floor=0.01),
    )
    prompts = Prompts([Question(np.array([at]), str(at), {"prompt": at}) for at in range(PROMPTS)], seed=None)
    critic = ActorCritic(model)
    stream = Rollouts(critic, prompts, [NamedReward("known", reward)], rollout, reference=frozen_copy(model), seed=seed)
    train_quietly("ppo", critic, stream, Policy(reduction="bnpo", vf=0.5), recipe)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dpo-steps", type=int, default=150)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="such small products gain nothing from more")
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "tabular")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def run(kind: str, seed: int) -> dict[str, float]:
        seed_everything(seed)
        model, rewards = build(), rewards_of(seed)
        before = log_probabilities(model)
        optimum = (before + rewards / BETA).softmax(-1)
        if kind == "dpo":
            dpo(model, rewards, options.dpo_steps)
        else:
            ppo(model, rewards, options.generations, seed)
        after = log_probabilities(model)
        value = (after.exp() * (rewards - BETA * (after - before))).sum(-1)
        best = BETA * (before + rewards / BETA).logsumexp(-1)
        return {
            "before": variation(before, optimum),
            "after": variation(after, optimum),
            "objective_short_of_best": float((best - value).max()),
        }

    counts = {"dpo": options.dpo_steps, "ppo": options.generations}
    found = {
        kind: [
            kept(options.work / f"{kind}-{count}-{seed}.json", lambda kind=kind, seed=seed: run(kind, seed))  # type: ignore[misc]
            for seed in range(options.seeds)
        ]
        for kind, count in counts.items()
    }
    worst = {kind: max(each["after"] for each in runs) for kind, runs in found.items()}
    before = min(each["before"] for runs in found.values() for each in runs)
    result = {
        "name": "tabular",
        "ours": round(max(worst.values()), 4),
        "peer": round(before, 4),
        "ratio": round(max(worst.values()) / before, 4),
        "unit": "total variation from the closed-form optimum, the worst of seeds and prompts",
        "bar": f"DPO under {BARS['dpo']}, PPO under {BARS['ppo']}",
        "holds": all(worst[kind] < bar for kind, bar in BARS.items()),
        "notes": {
            kind: [{key: round(value, 4) for key, value in each.items()} for each in runs]
            for kind, runs in found.items()
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
