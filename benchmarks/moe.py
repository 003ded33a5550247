"""A mixture of experts against a dense model: equal active FLOPs a token, the same tokens of real text, held-out loss.

Both have the same layers but for the perceptron: the dense one is as wide as the experts that see a token together (in
`dots1` one that is shared and 3 of 15, in the other families 2 of 8). Both see the same batches in the same order,
once, under Muon. The learning rate is the better of two for the dense model, tried on a tenth of the steps, and the
mixture takes it as it is. How evenly the experts are used on held-out text is shown, a bar an expert.

    python benchmarks/moe.py [--steps 700] [--family dots1] [--seeds 1]

Each run is kept in the work folder when it is done; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from modelworks.core.paths import cache_dir
from modelworks.models.base import LanguageModel
from modelworks.models.registry import family_of
from modelworks.objectives.balance import BalanceRecipe, balanced, bars, expert_load, max_load
from modelworks.objectives.causal_lm import CausalLM
from modelworks.scaling.plan import flops_per_token
from modelworks.train.checkpoint import seed_everything
from modelworks.train.loop import TrainRecipe
from modelworks.train.optim import OptimRecipe
from modelworks.train.schedule import ScheduleRecipe
from support.runs import batches, held_out_loss, kept, parameters, train_quietly
from support.texts import corpus

VOCAB, SEQ_LEN, ROWS = 2048, 256, 16
INNER = 384  # of the dense model, and of all experts together that see a token
RATES = (2e-3, 4e-3)
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": INNER,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": SEQ_LEN,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
}
_TWO_OF_EIGHT = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": INNER // 2}
# By model type. The dense model is the attention's own family, so that nothing but the perceptron differs.
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "dots1": (
        "qwen3",
        {
            "n_routed_experts": 15,
            "n_shared_experts": 1,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": INNER // 4,
            "norm_topk_prob": True,
            # Weights of the chosen that sum to their number, as the parts of a dense perceptron count 1 each.
            "routed_scaling_factor": 3.0,
        },
    ),
    "qwen3_moe": ("qwen3", {**_TWO_OF_EIGHT, "norm_topk_prob": True}),
    "mixtral": ("mistral", {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": INNER // 2}),
}
# Where there are biases they do the work, and the loss only keeps single rows from collapsing.
BALANCE = {
    "dots1": BalanceRecipe(loss=1e-3, z_loss=1e-4, bias_rate=2e-3),
    "qwen3_moe": BalanceRecipe(scope="batch"),
    "mixtral": BalanceRecipe(scope="batch"),
}


def build(kind: str, changes: dict[str, Any]) -> LanguageModel:
    config = {**SHAPE, "model_type": kind, "sliding_window": None, **changes}
    family = family_of(config)
    model = family.build(family.config.from_hf(config))
    assert isinstance(model, LanguageModel)
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700, help=f"of {ROWS * SEQ_LEN} tokens")
    parser.add_argument("--family", choices=MIXTURES, default="dots1")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "moe")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _, texts, held = corpus(options.work, VOCAB)
    dense_kind, experts = MIXTURES[options.family]
    if texts.tokens < options.steps * ROWS * SEQ_LEN:
        print(f"{options.steps} steps read the {texts.tokens} tokens more than once", file=sys.stderr)

    def run(kind: str, changes: dict[str, Any], lr: float, steps: int, seed: int) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            seed_everything(seed)
            model = build(kind, changes)
            objective = balanced(CausalLM(), model, BALANCE[options.family])
            recipe = TrainRecipe(
                steps=steps,
                precision=options.precision,
                optim=OptimRecipe(name="muon", lr=lr),
                schedule=ScheduleRecipe(warmup=min(50, steps // 5), floor=0.1),
            )
            # The first rows of the data's order for this seed, whatever the model.
            stream = batches(texts, SEQ_LEN, ROWS, seed=seed)
            spent = train_quietly(f"{kind}, lr {lr:g}, seed {seed}", model, stream, objective, recipe)
            found: dict[str, Any] = {
                "loss": held_out_loss(model, held, SEQ_LEN),
                "parameters": parameters(model),
                "gflops_a_token": flops_per_token(model, SEQ_LEN) / 1e9,
                **spent,
            }
            if changes:
                sample = islice(batches(held, SEQ_LEN, ROWS, seed=0, epochs=1), 8)
                load_LE = expert_load(model, sample)
                found |= {"bars": bars(load_LE), "max_load": float(max_load(load_LE))}
            return found

        name = f"{kind}-muon-{options.precision}-lr{lr:g}-{steps}-{seed}.json"
        return kept(options.work / name, make)

    tried = {lr: run(dense_kind, {}, lr, max(1, options.steps // 10), 0)["loss"] for lr in RATES}
    lr = min(tried, key=lambda rate: tried[rate])
    dense, mixture = (
        [run(kind, changes, lr, options.steps, seed) for seed in range(options.seeds)]
        for kind, changes in ((dense_kind, {}), (options.family, experts))
    )
    ours, peer = (statistics.mean(found["loss"] for found in runs) for runs in (mixture, dense))
    print("load of the experts on held-out text:\n" + mixture[0]["bars"])
    result = {
        "name": "moe",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 4),
        "unit": "held-out loss, nats a token of a vocabulary of 2,048",
        "bar": "below the dense model's of equal active FLOPs",
        "holds": ours < peer,
        "notes": {
            "family": options.family,
            "experts": experts,
            "gflops_a_token": [round(runs[0]["gflops_a_token"], 5) for runs in (mixture, dense)],
            "parameters": [runs[0]["parameters"] for runs in (mixture, dense)],
            "tokens": mixture[0]["tokens"],
            "losses": [[round(found["loss"], 4) for found in runs] for runs in (mixture, dense)],
            "fullest_expert_over_mean": round(mixture[0]["max_load"], 2),
            "seconds": [runs[0]["seconds"] for runs in (mixture, dense)],
            "lr": lr,
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
