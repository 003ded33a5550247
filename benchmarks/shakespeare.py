"""nanoGPT's documented CPU recipe on tinyshakespeare, in our loop; and the same FLOPs spent better.

The recipe: characters, 4 layers of 4 heads and width 128, context 64, batch 12, 2,000 steps, no dropout, no biases,
AdamW with a peak of 1e-3 that falls to 1e-4 by a cosine after 100 steps of warm-up, beta2 .99, weight decay .1, in
float32. Its author reports a validation loss of 1.88. Ours is a decoder in Llama's shape with at most as many FLOPs a
token, trained by Muon on the same batches for the same number of steps.

    python benchmarks/shakespeare.py [--steps 2000] [--seeds 1]

The batches are rows drawn without putting them back, as our streams draw them; nanoGPT puts them back. The validation
loss is over all of the last tenth of the text, in rows of 64, where nanoGPT estimates it from 240 of them: its figure
has an error of about .01.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelworks.data.batch import Batch
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.objectives.causal_lm import CausalLM
from modelworks.scaling.plan import flops_per_token
from modelworks.train.checkpoint import seed_everything
from modelworks.train.loop import TrainRecipe, mean_loss, train
from modelworks.train.optim import OptimRecipe
from modelworks.train.schedule import ScheduleRecipe

TEXT = Path(__file__).parents[2] / "shared" / "data" / "text" / "tinyshakespeare.txt"
CONTEXT, ROWS, BAR = 64, 12, 1.88


class Characters:
    """The text cut into rows, which come in random order, each once an epoch; the cuts fall elsewhere in the next."""

    def __init__(self, ids: Tensor, seed: int) -> None:
        self.ids, self.seed, self.at = ids, seed, 0
        self._epoch, self._begins = -1, torch.empty(0, dtype=torch.long)

    def __iter__(self) -> Iterator[Batch]:
        batches = (len(self.ids) - 1) // CONTEXT // ROWS - 1  # one less, as the first cut is not at the beginning
        while True:
            epoch, batch = divmod(self.at, batches)
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(self.seed * 1009 + epoch)
                first = int(torch.randint(CONTEXT, (), generator=generator))
                self._begins = first + CONTEXT * torch.randperm(batches * ROWS, generator=generator)
                self._epoch = epoch
            begins = self._begins[batch * ROWS : (batch + 1) * ROWS]
            self.at += 1
            yield batch_of(torch.stack([self.ids[begin : begin + CONTEXT + 1] for begin in begins]))

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def batch_of(ids_BT: Tensor) -> Batch:
    inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, 1:]
    return {"input_ids": inputs_BT, "targets": targets_BT, "weights": torch.ones(inputs_BT.shape)}


def nanogpt(vocab_size: int) -> nn.Module:
    drops = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
    shape = {"n_positions": CONTEXT, "n_embd": 128, "n_layer": 4, "n_head": 4, "n_inner": 512}
    model = GPT2(GPT2Config(vocab_size=vocab_size, activation_function="gelu", **shape, **drops))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they begin at zero and stay there: the recipe has none
            parameter.requires_grad_(False)
    return model


def llama(vocab_size: int) -> nn.Module:
    config = {
        "model_type": "qwen3",  # Llama's shape, with norms on queries and keys
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 336,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
    }
    return Llama(LlamaConfig.from_hf(config))


def validation_loss(model: nn.Module, ids: Tensor) -> float:
    count = (len(ids) - 1) // CONTEXT
    at_R = torch.arange(count) * CONTEXT
    rows = torch.stack([ids[at : at + CONTEXT + 1] for at in at_R])
    return mean_loss(model, (batch_of(part) for part in rows.split(64)), CausalLM())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lr", type=float, default=6e-3, help="of ours")
    options = parser.parse_args()
    text = TEXT.read_text()
    symbols = sorted(set(text))
    ids = torch.tensor([symbols.index(character) for character in text])
    cut = int(0.9 * len(ids))
    common: dict[str, Any] = {"steps": options.steps, "clip": 1.0}
    recipes = {
        "nanogpt": (
            nanogpt,
            TrainRecipe(
                **common,
                optim=OptimRecipe(lr=1e-3, beta2=0.99, weight_decay=0.1),
                schedule=ScheduleRecipe(name="cosine", warmup=100, floor=0.1),
            ),
        ),
        "ours": (
            llama,
            TrainRecipe(
                **common,
                optim=OptimRecipe(name="muon", lr=options.lr, beta2=0.99, weight_decay=0.1),
                schedule=ScheduleRecipe(name="linear", warmup=100),
            ),
        ),
    }
    found: dict[str, list[float]] = {name: [] for name in recipes}
    flops: dict[str, float] = {}
    for seed in range(options.seeds):
        for name, (build, recipe) in recipes.items():
            seed_everything(seed)
            model = build(len(symbols))
            flops[name] = flops_per_token(model, CONTEXT)
            for step in train(model, Characters(ids[:cut], seed), CausalLM(), recipe):
                if step.step % 250 == 0:
                    print(f"  {name} {step.step}: {step.loss:.3f}", flush=True)
            found[name].append(validation_loss(model, ids[cut:]))
            print(f"{name}, seed {seed}: {found[name][-1]:.4f}", flush=True)
    peer, ours = (statistics.mean(found[name]) for name in ("nanogpt", "ours"))
    holds = peer <= BAR and ours < peer and flops["ours"] <= flops["nanogpt"]
    result = {
        "name": "shakespeare",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 4),
        "unit": "nats a character on the last tenth of the text",
        "bar": f"nanoGPT's recipe at most {BAR} in our loop; ours lower at no more FLOPs",
        "holds": holds,
        "notes": {
            "seeds": found,
            "steps": options.steps,
            "flops_per_token": flops,
            "peer": "nanoGPT's documented recipe in our loop",
            "ours": f"4 Llama layers with norms on q and k, Muon, lr {options.lr}",
        },
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
