"""DPO of SmolLM2-135M with LoRA on pairs of the harmless test set, beside TRL with PEFT.

Both sides read the same folder (the starter's file, de-quantised and saved), the same first adapter (rank 16, on all
linear layers, b not zero) and the same pairs of token ids, in the same order; the reference is the model with its first
adapter. Each run is a process of its own.

In fp32 the losses must be equal, step by step, to 1e-3. In bf16 each side runs in its settings: TRL as it comes, with
the reference's log-probabilities computed before, and with activation checkpointing; ours as it comes. What is computed
before the first step counts, shared out over the steps. A step's time is the median after three that warm up; the
fastest of TRL is the peer, and memory is its process's peak. The sides take turns.

    python benchmarks/dpo_speed.py [--rounds 2] [--steps 20] [--batch 4] [--threads 2] [--data harmless]

Needs what `dpo_speed.peers.txt` lists in `.venv-bench-dpo-speed`; `make bench NAME=dpo-speed` sets that up.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from support import beside
from support.beside import WARM_UP, Fixed, our_recipe, prepare_model, speed_of, their_arguments, their_run

ROOT = Path(__file__).parents[1]
PEER_PYTHON = ROOT / ".venv-bench-dpo-speed" / "bin" / "python"
PREFERENCES = ROOT.parent / "shared" / "data" / "preference"
DATA = {"harmless": PREFERENCES / "hh_harmless_test.jsonl.gz", "demo": PREFERENCES / "dpo_en_demo.json"}
CACHE = ROOT / ".cache" / "bench" / "dpo-speed"
MAX_LENGTH, BETA = 512, 0.1
SPEED_BAR, MEMORY_BAR, LOSS_BAR = 2.0, 0.6, 1e-3


def prepare(options: argparse.Namespace) -> None:
    """The model's folder, the first adapter, and the pairs as ids."""
    from modelworks.data.pairs import read_pairs
    from modelworks.data.tokenize import Options

    model = prepare_model(CACHE)
    found, _ = read_pairs(DATA[options.data], model.tokenizer, Options(max_length=MAX_LENGTH))
    count = max(options.steps, options.speed_steps) * options.batch
    assert len(found) >= count, f"only {len(found)} pairs fit"
    rows = []
    for at in range(count):
        row = found[at]
        chosen, rejected = (each.ids.tolist() for each in row.completions)
        rows.append({"prompt_ids": row.prompt.tolist(), "chosen_ids": chosen, "rejected_ids": rejected})
    (CACHE / "pairs.json").write_text(json.dumps(rows))


def pairs_of(task: dict[str, Any]) -> list[dict[str, list[int]]]:
    return json.loads((CACHE / "pairs.json").read_text())[: task["steps"] * task["batch"]]


def ours(task: dict[str, Any]) -> dict[str, Any]:
    import tempfile
    import time

    import numpy as np
    import torch

    from modelworks.adapt import lora
    from modelworks.adapt.read import read
    from modelworks.data.branches import Branch, Branches
    from modelworks.data.pairs import Comparisons, comparison_batch
    from modelworks.models.load import load
    from modelworks.objectives.preference import Preference
    from modelworks.train.loop import train
    from modelworks.train.reference import reference_logps

    torch.set_num_threads(task["threads"])
    model = load(CACHE / "model", dtype=torch.bfloat16 if task["precision"] == "bf16" else torch.float32)
    ones = {"pair_weights": np.ones(1, np.float32), "margins": np.zeros(1, np.float32)}
    rows = [
        Branches(
            np.array(row["prompt_ids"]),
            [
                Branch(np.array(row[side]), np.ones(len(row[side]), np.float32))
                for side in ("chosen_ids", "rejected_ids")
            ],
            ones,
        )
        for row in pairs_of(task)
    ]
    pairs = Comparisons(rows, pad_id=0)
    lora.attach(model, read(CACHE / "adapter", model))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        said = reference_logps(model, pairs, precision=task["precision"], folder=folder, batch_tokens=2048, quiet=True)
    before = time.perf_counter() - began
    known = pairs.with_column("reference", said)
    batches = [
        comparison_batch([known[at + place] for place in range(task["batch"])], pad_id=0)
        for at in range(0, len(known), task["batch"])
    ]
    records = list(train(model, Fixed(batches), Preference(beta=BETA), our_recipe(task)))
    seconds = [record.seconds for record in records]
    return {"losses": [record.loss for record in records], "seconds": seconds, "before": before}


def trl(task: dict[str, Any]) -> dict[str, Any]:
    import time

    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(task["threads"])
    dtype = torch.bfloat16 if task["precision"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(CACHE / "model", dtype=dtype, attn_implementation="sdpa")

    class Tokenised(DPOTrainer):
        """The pairs are ids already."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    tokenizer = AutoTokenizer.from_pretrained(CACHE / "model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config = DPOConfig(beta=BETA, precompute_ref_log_probs=task["precompute"], **their_arguments(task, CACHE / "trl"))
    adapted = PeftModel.from_pretrained(model, CACHE / "adapter", is_trainable=True)
    began = time.perf_counter()
    trainer = Tokenised(
        model=adapted, args=config, train_dataset=Dataset.from_list(pairs_of(task)), processing_class=tokenizer
    )
    before = time.perf_counter() - began if task["precompute"] else 0.0
    return their_run(trainer) | {"before": before}


def run(side: str, options: argparse.Namespace, **task: Any) -> dict[str, Any]:
    python = sys.executable if side == "ours" else PEER_PYTHON
    return beside.run(side, python, __file__, options, **{"precompute": False, **task})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--speed-steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--data", choices=DATA, default="harmless")
    parser.add_argument("--side", choices=["ours", "trl"])
    parser.add_argument("--task")
    options = parser.parse_args()
    if options.side:
        return beside.answer({"ours": ours, "trl": trl}[options.side], options.task)
    if min(options.steps, options.speed_steps) <= WARM_UP:
        parser.error(f"a run needs more than {WARM_UP} steps, which warm up")
    if not PEER_PYTHON.exists():
        raise SystemExit("TRL is not there; `make bench NAME=dpo-speed` sets it up")
    prepare(options)
    mine, theirs = (run(side, options, precision="fp32", steps=options.steps)["losses"] for side in ("ours", "trl"))
    difference = max(abs(a - b) for a, b in zip(mine, theirs, strict=True))
    sides: dict[str, tuple[str, dict[str, Any]]] = {
        "ours": ("ours", {}),
        "TRL": ("trl", {}),
        "TRL, reference before": ("trl", {"precompute": True}),
        "TRL, checkpointing": ("trl", {"checkpointing": True}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, (side, settings) in sides.items():
            result = run(side, options, precision="bf16", steps=options.speed_steps, **settings)
            seconds[name].append(speed_of(result))
            peaks[name].append(result["peak_mib"])
    rate = {name: options.batch / min(found) for name, found in seconds.items()}
    peak = {name: max(found) for name, found in peaks.items()}
    peer = max((name for name in sides if name != "ours"), key=lambda name: rate[name])
    speed, memory = rate["ours"] / rate[peer], peak["ours"] / peak[peer]
    holds = speed >= SPEED_BAR and memory <= MEMORY_BAR and difference <= LOSS_BAR
    result = {
        "name": "dpo-speed",
        "ours": round(rate["ours"], 3),
        "peer": round(rate[peer], 3),
        "ratio": round(speed, 3),
        "unit": f"pairs/s, batches of {options.batch}",
        "bar": f"{SPEED_BAR} x the speed, {MEMORY_BAR} x the peak memory, losses equal to {LOSS_BAR} in fp32",
        "holds": holds,
        "notes": {
            "peer": peer,
            "memory_ratio": round(memory, 3),
            "loss_difference": difference,
            "losses": [round(theirs[0], 4), round(theirs[-1], 4)],
            "pairs_per_second": {name: round(value, 3) for name, value in rate.items()},
            "peak_mib": {name: round(value) for name, value in peak.items()},
            "data": options.data,
        },
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
