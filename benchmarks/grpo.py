"""GRPO and PPO on a task with an exact checker: a small model that learned sums from data full of mistakes.

A character-level GPT-2 of 0.1 million parameters is first trained on sums of numbers below 20, in which 6 answers of 10
are wrong by 1 to 9. It then answers, and all that it is told is whether the answer is right. Measured are the part of
right answers, drawn from the model as it is and over all 400 sums, before and after, and the divergence from the model
before. Neither method is shown a right answer. For each method a run is also killed (SIGKILL), PPO's amid a generation
batch, and gone on with: its weights have to be those of one that never was, bit for bit.

    python benchmarks/grpo.py [--generations 120] [--seeds 3] [--methods grpo ppo]

Each run is kept in the work folder when it is done; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.core.lineage import Lineage
from modelworks.core.paths import cache_dir
from modelworks.data.batch import Batch
from modelworks.data.prompts import Prompts, Question
from modelworks.engine.generate import complete
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.heads import ActorCritic
from modelworks.models.load import load
from modelworks.models.save import save
from modelworks.objectives.causal_lm import CausalLM
from modelworks.objectives.policy import Policy
from modelworks.text.tokenizer import Tokenizer
from modelworks.train.answers import RolloutRecipe
from modelworks.train.checkpoint import Checkpoints, seed_everything
from modelworks.train.loop import TrainRecipe, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.rewards import NamedReward, exact
from modelworks.train.rollout import Generation, Rollouts, frozen_copy
from modelworks.train.schedule import ScheduleRecipe
from support.runs import kept, parameters, train_quietly

BELOW, WRONG, LONGEST = 20, 0.6, 4
SUMS = [(a, b) for a in range(BELOW) for b in range(BELOW)]
WEIGHTS = "weights.pt"
ROLLOUTS = {
    "grpo": RolloutRecipe(prompts=32, samples=8, max_tokens=LONGEST, sample_batch=256, score_batch=256),
    "ppo": RolloutRecipe(
        prompts=256,
        samples=1,
        max_tokens=LONGEST,
        epochs=2,
        minibatches=2,
        advantage="gae",
        kl=0.02,
        whiten_advantages=True,
        sample_batch=256,
        score_batch=256,
    ),
}
OBJECTIVES = {
    "grpo": Policy(reduction="dapo", clip_high=0.28, kl=0.02),
    "ppo": Policy(reduction="bnpo", vf=0.1),
}


def character_tokenizer() -> Tokenizer:
    control = ("<|endoftext|>", "<|pad|>")
    vocabulary = {token: index for index, token in enumerate([*control, *"0123456789+="])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in control])
    return Tokenizer(backend, eos_id=0, pad_id=1)


def build() -> GPT2:
    tokenizer = character_tokenizer()
    config = {
        "vocab_size": tokenizer.vocab_size,
        "n_positions": 16,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 256,
        "eos_token_id": 0,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0),
    }
    model = GPT2(GPT2Config.from_hf(config))
    model.tokenizer = tokenizer
    return model


class Mistaken:
    """Batches of sums, of which most are wrong; batch i is made from i alone."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.at = rows, seed, 0
        self._tokenizer = character_tokenizer()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            draw = np.random.default_rng([self.seed, self.at])
            ids_BT = np.ones((self.rows, 11), np.int64)
            weights_BT = np.zeros((self.rows, 11), np.float32)
            for row, at in enumerate(draw.integers(0, len(SUMS), self.rows)):
                a, b = SUMS[at]
                total = a + b
                if draw.random() < WRONG:
                    total = max(0, total + int(draw.integers(1, 10)) * int(draw.choice((-1, 1))))
                prompt = self._tokenizer.encode(f"{a}+{b}=")
                ids = [*prompt, *self._tokenizer.encode(str(total)), 0]
                ids_BT[row, : len(ids)] = ids
                weights_BT[row, len(prompt) : len(ids)] = 1
            self.at += 1
            rows, weights = torch.from_numpy(ids_BT), torch.from_numpy(weights_BT)
            yield {"input_ids": rows[:, :-1], "targets": rows[:, 1:], "weights": weights[:, 1:]}

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def mistaken_model(folder: Path, steps: int) -> None:
    """Train the model that has seen mistakes, once."""
    if folder.exists():
        return
    seed_everything(0)
    model = build()
    recipe = TrainRecipe(steps=steps, optim=OptimRecipe(lr=3e-3), schedule=ScheduleRecipe(warmup=50, floor=0.05))
    train_quietly("on mistakes", model, Mistaken(128, 0), CausalLM(), recipe)
    save(model, folder, lineage=Lineage(seed=0))


def right(model: LanguageModel, seed: int) -> float:
    """The part of right answers to all sums, four drawn for each."""
    asked = [each for each in SUMS for _ in range(4)]
    samplings = [Sampling(temperature=1.0, max_tokens=LONGEST, seed=seed * 10**6 + at) for at in range(len(asked))]
    said = complete(model, [f"{a}+{b}=" for a, b in asked], samplings, batch_size=400)
    return sum(float(answer.text == str(a + b)) for answer, (a, b) in zip(said, asked)) / len(said)


RIGHT = (NamedReward("right", exact()),)


def setting(
    method: str, base: Path, generations: int, seed: int, rewards: Sequence[NamedReward] = RIGHT
) -> tuple[LanguageModel, Rollouts, TrainRecipe]:
    model = load(base, kind=LanguageModel)
    assert model.tokenizer is not None
    questions = [
        Question(np.array(model.tokenizer.encode(f"{a}+{b}=")), f"{a}+{b}=", {"completion": str(a + b)})
        for a, b in SUMS
    ]
    rollout = ROLLOUTS[method]
    reference = frozen_copy(model)
    learner = ActorCritic(model) if method == "ppo" else model
    stream = Rollouts(
        learner, Prompts(questions, pad_id=1, seed=seed), rewards, rollout,
        reference=reference, seed=seed,
    )  # fmt: skip
    recipe = TrainRecipe(
        steps=generations * rollout.steps,
        save_every=1,
        seed=seed,
        optim=OptimRecipe(lr=1e-3, weight_decay=0.0),
        schedule=ScheduleRecipe(warmup=5, floor=0.1),
    )
    return learner, stream, recipe


def run(method: str, base: Path, generations: int, seed: int) -> dict[str, Any]:
    seed_everything(seed)
    model, stream, recipe = setting(method, base, generations, seed)
    before, seen = right(model, seed), list[Generation]()
    stream.watch = seen.append
    spent = train_quietly(f"{method}, seed {seed}", model, stream, OBJECTIVES[method], recipe)
    rewards = [generation.reward for generation in seen]
    return {
        "before": before,
        "after": right(model, seed),
        "kl": sum(generation.kl or 0.0 for generation in seen[-5:]) / 5,
        "curve": [round(sum(rewards[at : at + 10]) / 10, 3) for at in range(0, len(rewards) - 9, 10)],
        "answers": sum(len(generation.answers) for generation in seen),
        "seconds": spent["seconds"],
    }


# --- killed, and gone on with -----------------------------------------------------------------------------------------


def child(method: str, base: Path, folder: Path, generations: int) -> None:
    """Train, or go on; say when a step is done, and write the weights at the end."""
    seed_everything(0)
    model, stream, recipe = setting(method, base, generations, 0)
    with Checkpoints(folder) as checkpoints:
        for step in train(model, stream, OBJECTIVES[method], recipe, checkpoints=checkpoints, resume=True):
            print(step.step, step.loss, flush=True)
    torch.save(model.state_dict(), folder / WEIGHTS)


def resumed(method: str, base: Path) -> dict[str, Any]:
    """Whether a run that is killed, and started again, ends as one that never was."""
    generations = 6
    kill_after = 3 * ROLLOUTS[method].steps - (ROLLOUTS[method].steps > 1)

    def start(folder: Path) -> subprocess.Popen[str]:
        options = ["--child", str(folder), "--methods", method, "--base", str(base), "--generations", str(generations)]
        return subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True)

    with tempfile.TemporaryDirectory() as home:
        whole, killed = Path(home, "whole"), Path(home, "killed")
        process = start(whole)
        expected = process.communicate()[0].splitlines()
        process = start(killed)
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line.strip())
            if len(told) == kill_after:
                process.kill()
                break
        process.wait()
        rest = start(killed).communicate()[0].splitlines()
        weights = [torch.load(folder / WEIGHTS, weights_only=True) for folder in (whole, killed)]
    return {
        "tensors": len(weights[0]),
        "equal": sum(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]),
        "losses": told == expected[:kill_after] and rest == expected[-len(rest) :],
        "killed_after": kill_after,
        "steps": len(expected),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain-steps", type=int, default=1500)
    parser.add_argument("--methods", nargs="+", default=list(ROLLOUTS), choices=list(ROLLOUTS))
    parser.add_argument("--threads", type=int, default=1, help="such small products gain nothing from more")
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "grpo")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child is not None:
        child(options.methods[0], options.base, options.child, options.generations)
        return 0
    base = options.work / f"mistaken-{options.pretrain_steps}"
    mistaken_model(base, options.pretrain_steps)
    settings = f"{options.pretrain_steps}-{options.generations}"
    found: dict[str, list[dict[str, Any]]] = {}
    went_on: dict[str, dict[str, Any]] = {}
    for method in options.methods:
        found[method] = []
        for seed in range(options.seeds):

            def make(method: str = method, seed: int = seed) -> dict[str, Any]:
                return run(method, base, options.generations, seed)

            found[method].append(kept(options.work / f"{method}-{settings}-{seed}.json", make))

        def go_on(method: str = method) -> dict[str, Any]:
            return resumed(method, base)

        went_on[method] = kept(options.work / f"{method}-{options.pretrain_steps}-resumed.json", go_on)
    runs = [each for method in found.values() for each in method]
    same = all(each["equal"] == each["tensors"] and each["losses"] for each in went_on.values())
    ours, peer = (sum(each[key] for each in runs) / len(runs) for key in ("after", "before"))
    result = {
        "name": "grpo",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 3),
        "unit": "part of right answers, drawn from the model, mean over methods and seeds; peer: before",
        "bar": "every seed of every method: half of the wrong answers gone; resumed equals uninterrupted bit for bit",
        "holds": same and all(1 - each["after"] <= (1 - each["before"]) / 2 for each in runs),
        "notes": {
            "parameters": parameters(load(base)),
            "runs": {
                method: [
                    {key: round(each[key], 4) for key in ("before", "after", "kl")}
                    | {key: each[key] for key in ("curve", "answers", "seconds")}
                    for each in each_seed
                ]
                for method, each_seed in found.items()
            },
            "resumed": went_on,
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
