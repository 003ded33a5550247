"""TRL's side of `losses`, section policy: the trainers' own loss on a batch that is given.

losses_policy.py MODEL CASES OUT
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer


def side_by_side(rows, *, left=False, fill=0):
    width = max(map(len, rows))
    padded = [[fill] * (width - len(row)) + row if left else row + [fill] * (width - len(row)) for row in rows]
    mask = [
        [0] * (width - len(row)) + [1] * len(row) if left else [1] * len(row) + [0] * (width - len(row)) for row in rows
    ]
    return torch.tensor(padded), torch.tensor(mask)


def trainer_of(kind, config, model, tokenizer):
    data = Dataset.from_list([{"prompt": "a"}] * 64)
    return kind(
        model=model, reward_funcs=lambda **_: [0.0], args=config, train_dataset=data, processing_class=tokenizer
    )


def config_of(settings, case, home):
    batch = sum(map(len, case["completions"]))
    common = {
        "output_dir": home,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "per_device_train_batch_size": batch,
        "num_generations": len(case["completions"][0]),
        "steps_per_generation": 2,
        "max_completion_length": settings.get("max_tokens") or 12,
        "temperature": settings.get("temperature", 1.0),
        "epsilon": settings.get("clip", 0.2),
        "epsilon_high": settings.get("clip_high"),
        "beta": settings.get("kl", 0.0),
        "disable_dropout": True,
        "gradient_checkpointing": False,
    }
    if settings.get("ratio") == "sum":
        return RLOOTrainer, RLOOConfig(**common)
    return GRPOTrainer, GRPOConfig(
        **common,
        loss_type=settings["reduction"],
        importance_sampling_level="sequence" if settings.get("ratio") == "mean" else "token",
        use_bias_correction_kl=settings.get("kl_weighted", True),
    )


def main():
    folder, cases, out = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tensors = {}
    for name, case in json.loads(Path(cases).read_text()).items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with tempfile.TemporaryDirectory() as home:
            kind, config = config_of(case["settings"], case, home)
            trainer = trainer_of(kind, config, model, tokenizer)
        trainer.current_gradient_accumulation_steps = 1
        prompts = [prompt for prompt, group in zip(case["prompts"], case["completions"]) for _ in group]
        prompt_ids, prompt_mask = side_by_side(prompts, left=True)
        ids, mask = side_by_side([each for group in case["completions"] for each in group])
        numbers = {
            key: side_by_side(case[key], fill=0.0)[0] for key in ("old_logprobs", "reference_logprobs", "advantages")
        }
        by_token = name == "ppo"
        inputs = {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": numbers["advantages"] if by_token else numbers["advantages"][:, 0],
            "old_per_token_logps": numbers["old_logprobs"],
            "old_logps": (numbers["old_logprobs"] * mask).sum(1),
            "ref_per_token_logps": numbers["reference_logprobs"],
            "num_items_in_batch": torch.tensor(float(case["generation_tokens"])),
        }
        trainer.model.train()
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        tensors[f"{name}/loss"] = loss.detach().reshape(1)
        for key, parameter in trainer.model.named_parameters():
            tensors[f"{name}/gradient/{key}"] = parameter.grad.clone()
    save_file(tensors, out)


if __name__ == "__main__":
    main()
