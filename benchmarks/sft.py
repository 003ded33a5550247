"""Fine-tuning SmolLM2-135M on the Alpaca sample, with LoRA and with QLoRA, beside TRL with PEFT (and bitsandbytes).

Both sides read the same folder (the starter's file, de-quantised and saved), the same first adapter (rank 16, on all
linear layers, b not zero, so that every part has a gradient at once) and the same batches of token ids, in the same
order. Each run is a process of its own.

In fp32 the losses must be equal, step by step, to 1e-3. In bf16 each side runs in its fastest setting, with frozen
weights in bfloat16: TRL padded, padding-free or with activation checkpointing, ours with the rows of a batch side by
side (and padded, for the notes). A step's time is the median after three that warm up, and memory is the process's peak
in the same run; that of the leanest setting is in the notes. The sides take turns.

    python benchmarks/sft.py [--rounds 2] [--steps 20] [--batch 4] [--threads 2] [--kinds lora qlora] [--skip-fp32]

Needs what `sft.peers.txt` lists in `.venv-bench-sft`; `make bench NAME=sft` sets that up.
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
PEER_PYTHON = ROOT / ".venv-bench-sft" / "bin" / "python"
DATA = ROOT.parent / "shared" / "data" / "instruct" / "alpaca_en_demo.json"
CACHE = ROOT / ".cache" / "bench" / "sft"
MAX_LENGTH = 512
SPEED_BAR, MEMORY_BAR, LOSS_BAR = 1.3, 0.7, 1e-3


# --- what both sides read ---------------------------------------------------------------------------------------------


def prepare(steps: int, batch: int) -> None:
    """The model's folder, the first adapter, and the batches: for each step, rows of ids and of labels (-100: none)."""
    from modelworks.data.encode import encode_sample, fit
    from modelworks.data.files import read_rows
    from modelworks.data.formats import to_sample

    model = prepare_model(CACHE)
    rows: list[dict[str, list[int]]] = []
    for row in read_rows(DATA):
        encoded = fit(encode_sample(model.tokenizer, to_sample(row)), MAX_LENGTH)
        if not isinstance(encoded, str):
            labels = [id if weight else -100 for id, weight in zip(encoded.ids.tolist(), encoded.weights)]
            rows.append({"input_ids": encoded.ids.tolist(), "labels": labels})
        if len(rows) == steps * batch:
            break
    assert len(rows) == steps * batch, f"{DATA} has only {len(rows)} samples that fit"
    (CACHE / "rows.json").write_text(json.dumps(rows))


def rows_of(task: dict[str, Any]) -> list[dict[str, list[int]]]:
    return json.loads((CACHE / "rows.json").read_text())[: task["steps"] * task["batch"]]


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(task: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    from modelworks.adapt import lora, qlora
    from modelworks.adapt.read import read
    from modelworks.data.collate import Encoded, collate, packed_row
    from modelworks.models.load import load
    from modelworks.objectives.causal_lm import CausalLM
    from modelworks.train.loop import train

    torch.set_num_threads(task["threads"])
    bf16 = task["precision"] == "bf16"
    model = load(
        CACHE / "model",
        dtype=torch.bfloat16 if bf16 else torch.float32,
        pack=qlora.to_nf4 if task["kind"] == "qlora" else None,
    )
    lora.attach(model, read(CACHE / "adapter", model))
    documents = [
        Encoded(np.array(row["input_ids"]), (np.array(row["labels"]) != -100).astype(np.float32))
        for row in rows_of(task)
    ]
    batches = []
    for start in range(0, len(documents), task["batch"]):
        part = documents[start : start + task["batch"]]
        # The same rows without their padding: side by side in one, each seeing only itself.
        rows = [packed_row(part)] if task["packed"] else [packed_row([each]) for each in part]
        batches.append(collate(rows, pad_id=0))
    records = list(train(model, Fixed(batches), CausalLM(), our_recipe(task)))
    return {"losses": [record.loss for record in records], "seconds": [record.seconds for record in records]}


# --- theirs -----------------------------------------------------------------------------------------------------------


def trl(task: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import PeftModel, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(task["threads"])
    bf16 = task["precision"] == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    is_qlora = task["kind"] == "qlora"
    model = AutoModelForCausalLM.from_pretrained(
        CACHE / "model", dtype=dtype, attn_implementation="sdpa", quantization_config=quantisation if is_qlora else None
    )
    if is_qlora and task["checkpointing"]:
        model = prepare_model_for_kbit_training(model)
    model = PeftModel.from_pretrained(model, CACHE / "adapter", is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(CACHE / "model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config = SFTConfig(padding_free=task["padding_free"], **their_arguments(task, CACHE / "trl"))
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows_of(task)),
        processing_class=tokenizer,
    )
    return their_run(trainer)


# --- one run, and all of them -----------------------------------------------------------------------------------------


def run(side: str, options: argparse.Namespace, **task: Any) -> dict[str, Any]:
    task = {"packed": True, "padding_free": False} | task
    return beside.run(side, sys.executable if side == "ours" else PEER_PYTHON, __file__, options, **task)


def compare(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not options.skip_fp32:
        pair = [
            run(side, options, kind=kind, precision="fp32", steps=options.steps, packed=packed)["losses"]
            for side, packed in (("ours", False), ("trl", False), ("ours", True))
        ]
        found["loss_difference"] = max(abs(a - b) for a, b in zip(pair[0], pair[1], strict=True))
        found["loss_difference_packed"] = max(abs(a - b) for a, b in zip(pair[2], pair[1], strict=True))
        found["losses"] = [round(pair[1][0], 4), round(pair[1][-1], 4)]
    sides = {
        "ours": {},
        "ours, padded": {"packed": False},
        "TRL": {},
        "TRL, padding-free": {"padding_free": True},
        "TRL, checkpointing": {"checkpointing": True},
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, settings in sides.items():
            side = "ours" if name.startswith("ours") else "trl"
            result = run(side, options, kind=kind, precision="bf16", steps=options.speed_steps, **settings)
            seconds[name].append(speed_of(result))
            peaks[name].append(result["peak_mib"])
    found["seconds"] = {name: round(min(each), 3) for name, each in seconds.items()}
    found["peak_mib"] = {name: round(max(each)) for name, each in peaks.items()}
    fastest = min((name for name in sides if name.startswith("TRL")), key=lambda name: found["seconds"][name])
    found["peer"] = fastest
    found["speed_ratio"] = round(found["seconds"][fastest] / found["seconds"]["ours"], 3)
    found["speed_ratio_padded"] = round(found["seconds"][fastest] / found["seconds"]["ours, padded"], 3)
    found["memory_ratio"] = round(found["peak_mib"]["ours"] / found["peak_mib"][fastest], 3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--speed-steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kinds", nargs="+", default=["lora", "qlora"], choices=["lora", "qlora"])
    parser.add_argument("--skip-fp32", action="store_true")
    parser.add_argument("--side", choices=["ours", "trl"])
    parser.add_argument("--task")
    options = parser.parse_args()
    if options.side:
        return beside.answer({"ours": ours, "trl": trl}[options.side], options.task)
    if min(options.steps, options.speed_steps) <= WARM_UP:
        parser.error(f"a run needs more than {WARM_UP} steps, which warm up")
    if not PEER_PYTHON.exists():
        raise SystemExit("TRL is not there; `make bench NAME=sft` sets it up")
    prepare(max(options.steps, options.speed_steps), options.batch)
    table = {kind: compare(kind, options) for kind in options.kinds}
    slowest = min(table.values(), key=lambda each: each["speed_ratio"])
    holds = all(
        each["speed_ratio"] >= SPEED_BAR
        and each["memory_ratio"] <= MEMORY_BAR
        and each.get("loss_difference", 0) <= LOSS_BAR
        for each in table.values()
    )
    result = {
        "name": "sft",
        "ours": round(1 / slowest["seconds"]["ours"], 3),
        "peer": round(1 / slowest["seconds"][slowest["peer"]], 3),
        "ratio": slowest["speed_ratio"],
        "unit": f"steps/s, batches of {options.batch}, the slower kind",
        "bar": f"{SPEED_BAR} x the speed, {MEMORY_BAR} x the peak memory, losses equal to {LOSS_BAR} in fp32",
        "holds": holds,
        "notes": table,
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
