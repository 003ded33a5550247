"""Cases of `losses`: policy gradients on a batch whose old and reference log-probabilities lie around the model's own.

TRL 1.16 has no PPO trainer. PPO's clipped policy loss is its GRPO loss with an advantage for each token (`ppo` here);
its critic has no peer there, and is held to the golden numbers in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelworks.data.batch import Batch
from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.models.base import LanguageModel
from modelworks.objectives.policy import Policy, score

PROMPTS, SAMPLES, LONGEST, STEPS = 3, 4, 12, 2
SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": {"reduction": "grpo", "kl": 0.04, "kl_weighted": False},
    "grpo, importance-weighted kl": {"reduction": "grpo", "kl": 0.04},
    "grpo, temperature 0.7": {"reduction": "grpo", "temperature": 0.7},
    "bnpo": {"reduction": "bnpo"},
    "dr_grpo": {"reduction": "dr_grpo", "max_tokens": LONGEST},
    "dapo, clip higher": {"reduction": "dapo", "clip_high": 0.28},
    "gspo": {"reduction": "grpo", "ratio": "mean", "clip": 0.03, "clip_high": 0.04},
    "rloo": {"reduction": "grpo", "ratio": "sum"},
    "ppo": {"reduction": "bnpo", "clip": 0.2},
}


def cases(model: LanguageModel) -> dict[str, dict[str, Any]]:
    return {name: _case(model, settings, name == "ppo") for name, settings in SETTINGS.items()}


def _case(model: LanguageModel, settings: dict[str, Any], by_token: bool) -> dict[str, Any]:
    draw = np.random.default_rng(7)
    vocab = model.config.vocab_size
    prompts = [draw.integers(0, vocab, draw.integers(2, 9)).tolist() for _ in range(PROMPTS)]
    completions = [
        [draw.integers(0, vocab, draw.integers(1, LONGEST + 1)).tolist() for _ in range(SAMPLES)] for _ in prompts
    ]
    lengths = [len(each) for group in completions for each in group]
    # dapo's window: as many tokens again are in the generation batch's other step.
    case = {
        "settings": settings,
        "prompts": prompts,
        "completions": completions,
        "generation_tokens": STEPS * sum(lengths),
    }
    if by_token:
        case["advantages"] = [draw.normal(size=length).tolist() for length in lengths]
    else:
        case["advantages"] = [[float(draw.normal())] * length for length in lengths]
    case |= {"old_logprobs": [[0.0] * length for length in lengths], "reference_logprobs": case["advantages"]}
    with torch.no_grad():
        batch = _batch(case)
        own_N = score(model, batch, temperature=settings.get("temperature", 1.0)).logprobs_N
    inside = batch["sequences"].flatten() >= 0
    own = [part.numpy() for part in own_N[inside].split(lengths)]
    for name, spread in (("old_logprobs", 0.2), ("reference_logprobs", 0.5)):
        case[name] = [(part + draw.normal(size=len(part)) * spread).astype(np.float32).tolist() for part in own]
    return case


def _batch(case: Mapping[str, Any]) -> Batch:
    rows, at = [], 0
    names = ("old_logprobs", "reference_logprobs", "advantages")
    for prompt, group in zip(case["prompts"], case["completions"]):
        branches = []
        for ids in group:
            tokens = {name: np.array(case[name][at], np.float32) for name in names}
            branches.append(Branch(np.array(ids), np.ones(len(ids), np.float32), tokens))
            at += 1
        each = case["generation_tokens"] / (STEPS * PROMPTS * SAMPLES)
        columns = {"normalizers": np.full(len(group), each, np.float32)}
        rows.append(Branches(np.array(prompt), branches, columns))
    return branch_batch(rows, pad_id=0)


def ours(model: LanguageModel, case: Mapping[str, Any]) -> Tensor:
    objective, batch = Policy(**case["settings"]), _batch(case)
    return objective(model, batch)[0] / objective.weight(batch)
