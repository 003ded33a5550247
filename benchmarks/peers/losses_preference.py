"""TRL's side of `losses`, section preference: the trainers' own loss on a batch that is given.

losses_preference.py MODEL CASES OUT
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

DPO_LOSSES = {"dpo": "sigmoid", "robust": "robust", "hinge": "hinge", "ipo": "ipo"}
PAIR = {"prompt": "a", "chosen": " b", "rejected": " c"}


def stacked(rows, fill):
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def sequences(case, side):
    """Ids, mask, and mask of the completion, of one side's prompts with their completions."""
    pairs = [(row["prompt"], row["completions"][side]) for row in case["rows"]]
    return (
        stacked([prompt + said for prompt, said in pairs], 0),
        stacked([[1] * (len(prompt) + len(said)) for prompt, said in pairs], 0),
        stacked([[0] * len(prompt) + [1] * len(said) for prompt, said in pairs], 0),
    )


def both(case):
    """The same of both sides, chosen first, of one width."""
    sides = [sequences(case, side) for side in (0, 1)]
    width = max(ids.shape[1] for ids, _, _ in sides)
    return [
        torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])
        for parts in zip(*sides)
    ]


def labels_of(ids, completion_mask):
    return ids.masked_fill(completion_mask == 0, -100)


def sft(trainer_of, model, case):
    trainer = trainer_of(SFTTrainer, SFTConfig, [{"prompt": "a", "completion": " b"}])
    ids, mask, completion_mask = both(case)
    return trainer.compute_loss(
        model, {"input_ids": ids, "attention_mask": mask, "labels": labels_of(ids, completion_mask)}
    )


def reward(trainer_of, model, case):
    model.score.weight.data = torch.tensor([case["score"]])
    trainer = trainer_of(RewardTrainer, RewardConfig, [PAIR], center_rewards_coefficient=case["settings"]["centre"])
    ids, mask, _ = both(case)
    inputs = {"input_ids": ids, "attention_mask": mask, "margin": torch.tensor(case["margins"])}
    return trainer.compute_loss(model, inputs)


def pairs(trainer_of, model, case):
    settings = case["settings"]
    ids, mask, completion_mask = both(case)
    if settings["loss"] in DPO_LOSSES:
        trainer = trainer_of(
            DPOTrainer,
            DPOConfig,
            [PAIR],
            beta=settings.get("beta", 0.1),
            loss_type=[DPO_LOSSES[settings["loss"]]],
            label_smoothing=settings.get("smoothing", 0.0),
        )
        trainer.precompute_ref_logps = True
        reference = torch.tensor(case["reference"])
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "completion_mask": completion_mask,
            "ref_chosen_logps": reference[::2],
            "ref_rejected_logps": reference[1::2],
        }
        return trainer._compute_loss(trainer.model, inputs, False)
    batch = {}
    for at, side in enumerate(("chosen", "rejected")):
        side_ids, side_mask, side_completion = sequences(case, at)
        batch |= {
            f"{side}_input_ids": side_ids,
            f"{side}_attention_mask": side_mask,
            f"{side}_labels": labels_of(side_ids, side_completion),
        }
    if settings["loss"] == "orpo":
        trainer = trainer_of(ORPOTrainer, ORPOConfig, [PAIR], beta=settings["beta"])
        chosen, rejected = trainer.concatenated_forward(trainer.model, batch)[:2]
        return -trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    trainer = trainer_of(
        CPOTrainer,
        CPOConfig,
        [PAIR],
        loss_type="simpo",
        beta=settings["beta"],
        simpo_gamma=settings["gamma"],
        cpo_alpha=0.0,
    )
    return trainer.get_batch_loss_metrics(trainer.model, batch)[0]


def kto(trainer_of, model, case):
    settings = case["settings"]
    trainer = trainer_of(
        KTOTrainer,
        KTOConfig,
        [{"prompt": "a", "completion": " b", "label": True}, {"prompt": "c", "completion": " d", "label": False}],
        desirable_weight=settings["desirable"],
        undesirable_weight=settings["undesirable"],
    )
    trainer.precompute_ref_logps = True
    ids, mask, completion_mask = sequences(case, 0)
    others, others_mask, others_completion = sequences(case, 1)
    reference = torch.tensor(case["reference"])
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "completion_mask": completion_mask,
        "KL_input_ids": others,
        "KL_attention_mask": others_mask,
        "KL_completion_mask": others_completion,
        "label": torch.tensor(case["labels"]),
        "ref_logps": reference[::2],
        "ref_KL_logps": reference[1::2],
    }
    return trainer._compute_loss(trainer.model, inputs, False)


def main():
    folder, cases, out = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tensors = {}
    for name, case in json.loads(Path(cases).read_text()).items():
        kind = case["settings"]["kind"]
        if kind == "reward":
            model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
            model.config.pad_token_id = 0
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

        with tempfile.TemporaryDirectory() as home:

            def trainer_of(trainer, config, rows, home=home, model=model, case=case, **more):
                made = config(
                    output_dir=home,
                    use_cpu=True,
                    bf16=False,
                    report_to="none",
                    per_device_train_batch_size=len(case["rows"]),
                    gradient_checkpointing=False,
                    disable_tqdm=True,
                    **more,
                )
                found = trainer(
                    model=model, args=made, train_dataset=Dataset.from_list(rows * 8), processing_class=tokenizer
                )
                found.model.train()
                return found

            loss = {"sft": sft, "reward": reward, "pairs": pairs, "kto": kto}[kind](trainer_of, model, case)
        loss.backward()
        tensors[f"{name}/loss"] = loss.detach().reshape(1)
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                tensors[f"{name}/gradient/{key}"] = parameter.grad.clone()
    save_file(tensors, out)


if __name__ == "__main__":
    main()
