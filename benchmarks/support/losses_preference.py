"""Cases of `losses`: pairs and ratings whose reference lies around the model's own log-probabilities.

Of ORPO the odds-ratio term is compared: its likelihood term is over the prompt, too, in TRL, and over the completion
here, where a prompt is nobody's answer. TRL 1.16 has cDPO no more; it is held to its golden number in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelworks.data.batch import Batch
from modelworks.data.branches import Branch, Branches
from modelworks.data.pairs import comparison_batch
from modelworks.models.base import LanguageModel
from modelworks.models.reward import RewardModel
from modelworks.objectives.causal_lm import CausalLM
from modelworks.objectives.completions import completions
from modelworks.objectives.preference import KTO, Preference
from modelworks.objectives.reward import BradleyTerry

PAIRS, LONGEST = 4, 12
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"kind": "sft"},
    "reward": {"kind": "reward", "centre": 0.01},
    "dpo": {"kind": "pairs", "loss": "dpo"},
    "robust dpo": {"kind": "pairs", "loss": "robust", "smoothing": 0.1},
    "hinge": {"kind": "pairs", "loss": "hinge"},
    "ipo": {"kind": "pairs", "loss": "ipo"},
    "orpo, odds ratio": {"kind": "pairs", "loss": "orpo", "beta": 0.3},
    "simpo": {"kind": "pairs", "loss": "simpo", "beta": 2.0, "gamma": 0.5},
    "kto": {"kind": "kto", "desirable": 1.2, "undesirable": 0.8},
}


def cases(model: LanguageModel) -> dict[str, dict[str, Any]]:
    return {name: _case(model, settings) for name, settings in SETTINGS.items()}


def _case(model: LanguageModel, settings: dict[str, Any]) -> dict[str, Any]:
    draw = np.random.default_rng(11)
    vocab = model.config.vocab_size

    def ids(least: int) -> list[int]:
        return [int(each) for each in draw.integers(0, vocab, draw.integers(least, LONGEST + 1))]

    rows = [{"prompt": ids(2), "completions": [ids(1), ids(1)]} for _ in range(PAIRS)]
    case = {
        "settings": settings,
        "rows": rows,
        "labels": [at % 2 == 0 for at in range(PAIRS)],
        "margins": [float(each) * (settings["kind"] == "reward") for each in draw.uniform(0, 1, PAIRS)],
        "score": [float(each) for each in draw.normal(size=model.config.hidden_size)],
        "reference": [0.0] * (2 * PAIRS),
    }
    with torch.no_grad():
        own_S = completions(model, _batch(case), 2 * PAIRS).logps_S.numpy()
    case["reference"] = [float(each) for each in own_S + draw.normal(scale=2.0, size=2 * PAIRS)]
    return case


def ours(model: LanguageModel, case: Mapping[str, Any]) -> Tensor:
    """The mean loss of a case, with its graph."""
    settings = dict(case["settings"])
    kind = settings.pop("kind")
    batch = _batch(case, whole=kind == "reward")
    judged: nn.Module = model
    if kind == "sft":
        objective: Any = CausalLM()
    elif kind == "reward":
        scored = RewardModel.from_language_model(model)
        scored.score.weight = nn.Parameter(torch.tensor([case["score"]]))
        judged, objective = scored, BradleyTerry(**settings)
    else:
        objective = KTO(**settings) if kind == "kto" else Preference(**settings)
    loss = objective(judged, batch)[0] / objective.weight(batch)
    if settings.get("loss") == "orpo":
        loss = loss + completions(model, batch, 2 * PAIRS).means_S[::2].mean()
    return loss


def _batch(case: Mapping[str, Any], *, whole: bool = False) -> Batch:
    rows = []
    for at, row in enumerate(case["rows"]):
        columns = {
            "pair_weights": np.ones(1, np.float32),
            "margins": np.array([case["margins"][at]], np.float32),
            "labels": np.array([case["labels"][at]], np.float32),
            "reference": np.array(case["reference"][2 * at : 2 * at + 2], np.float32),
        }
        sides = [Branch(np.array(ids), np.ones(len(ids), np.float32)) for ids in row["completions"]]
        rows.append(Branches(np.array(row["prompt"]), sides, columns))
    return comparison_batch(rows, pad_id=0, whole=whole)
