"""A student of a quarter of its teacher's size: taught by soft targets, against the same student on hard labels.

The teacher is trained here, on hard labels, with twice the student's tokens. Then for each seed one student is
trained twice from the same weights on the same batches: on the next tokens alone, and on the teacher's distributions
(forward KL at the temperature, with a part of hard labels). The measure is perplexity on documents that nobody saw.

    python benchmarks/distill.py [--steps 400] [--seeds 3] [--temperature 1] [--hard 0.1]

Each run is kept in the work folder when it is done; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from modelworks.core.lineage import Lineage
from modelworks.core.paths import cache_dir
from modelworks.models.base import LanguageModel
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load
from modelworks.models.save import save
from modelworks.objectives.base import Objective
from modelworks.objectives.causal_lm import CausalLM
from modelworks.objectives.distill import Distill
from modelworks.train.checkpoint import seed_everything
from modelworks.train.loop import TrainRecipe
from modelworks.train.optim import OptimRecipe
from modelworks.train.schedule import ScheduleRecipe
from support.runs import batches, held_out_loss, kept, parameters, train_quietly
from support.texts import corpus

VOCAB, SEQ_LEN, ROWS, LONGER = 2048, 256, 16, 2
LR = 4e-3
# Widths and depths; a student's parameters are a quarter, embedding included (checked below).
SHAPES = {"teacher": (192, 576, 6, 6), "student": (112, 336, 3, 4)}


def build(name: str) -> Llama:
    width, inner, layers, heads = SHAPES[name]
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": SEQ_LEN,
        "tie_word_embeddings": True,
    }
    return Llama(LlamaConfig.from_hf(config))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help=f"of a student, of {ROWS * SEQ_LEN} tokens")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--hard", type=float, default=0.1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "distill")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _, texts, held = corpus(options.work, VOCAB)

    def trained(name: str, model: LanguageModel, objective: Objective, steps: int, seed: int) -> dict[str, Any]:
        recipe = TrainRecipe(
            steps=steps,
            precision=options.precision,
            optim=OptimRecipe(name="muon", lr=LR),
            schedule=ScheduleRecipe(warmup=min(50, steps // 5), floor=0.1),
        )
        stream = batches(texts, SEQ_LEN, ROWS, seed=seed)
        spent = train_quietly(f"{name}, seed {seed}", model, stream, objective, recipe)
        return {"loss": held_out_loss(model, held, SEQ_LEN), "parameters": parameters(model), **spent}

    long = LONGER * options.steps
    folder = options.work / f"teacher-{options.precision}-{long}"

    def teacher_run() -> dict[str, Any]:
        seed_everything(1000)
        model = build("teacher")
        found = trained("teacher", model, CausalLM(), long, 1000)
        save(model, folder, lineage=Lineage(seed=1000))
        return found

    teacher = kept(folder.with_suffix(".json"), teacher_run)
    learned = load(folder, kind=LanguageModel)
    objectives: dict[str, Objective] = {
        "hard": CausalLM(),
        "soft": Distill(learned, temperature=options.temperature, hard=options.hard),
    }

    def student(kind: str, seed: int) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            seed_everything(seed)
            return trained(kind, build("student"), objectives[kind], options.steps, seed)

        settings = "" if kind == "hard" else f"-t{options.temperature:g}-h{options.hard:g}-of{long}"
        return kept(options.work / f"{kind}{settings}-{options.precision}-{options.steps}-{seed}.json", make)

    runs = {kind: [student(kind, seed) for seed in range(options.seeds)] for kind in objectives}
    perplexities = {kind: [math.exp(run["loss"]) for run in found] for kind, found in runs.items()}
    ours, peer = (statistics.mean(perplexities[kind]) for kind in ("soft", "hard"))
    share = runs["soft"][0]["parameters"] / teacher["parameters"]
    result = {
        "name": "distill",
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "ratio": round(ours / peer, 4),
        "unit": "held-out perplexity a token of a vocabulary of 2,048, mean over seeds",
        "bar": "every seed below its twin on hard labels, at a quarter of the teacher's size",
        "holds": all(soft < hard for soft, hard in zip(perplexities["soft"], perplexities["hard"])) and share <= 0.25,
        "notes": {
            "soft": [round(value, 3) for value in perplexities["soft"]],
            "hard": [round(value, 3) for value in perplexities["hard"]],
            "teacher": round(math.exp(teacher["loss"]), 3),
            "parameters": {"teacher": teacher["parameters"], "student": runs["soft"][0]["parameters"]},
            "tokens": {"teacher": teacher["tokens"], "student": runs["soft"][0]["tokens"]},
            "seconds": {"teacher": teacher["seconds"], **{kind: found[0]["seconds"] for kind, found in runs.items()}},
            "temperature": options.temperature,
            "hard_part": options.hard,
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
