"""Every loss of ours beside TRL's: the same weights, the same batch, the loss and its gradient.

A section is a family of losses: a module in `support` that makes cases and computes ours, and a script in `peers` that
computes TRL's, in an interpreter that has it. To add one, write both and add a line to `SECTIONS`. Both sides read one
folder of a small random model in float32 with dropout off, and one file of cases; the gradient is of every parameter.

    python benchmarks/losses.py [--sections policy preference] [--peer-python .venv-bench-losses/bin/python]

Needs what `losses.peers.txt` lists in `.venv-bench-losses`; `make bench NAME=losses` sets that up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from modelworks.models.base import LanguageModel
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load, load_tokenizer
from modelworks.models.save import save
from support import losses_policy, losses_preference

ROOT = Path(__file__).parents[1]
BAR = 1e-5
GAPS = ("loss_gap", "gradient_gap", "gradient_gap_relative")

Cases = dict[str, dict[str, Any]]
"""By name, all that both sides need, as JSON."""
Make = Callable[[LanguageModel], Cases]
Ours = Callable[[LanguageModel, Mapping[str, Any]], Tensor]
"""The mean loss of a case, with its graph."""

SECTIONS: dict[str, tuple[Make, Ours]] = {
    "policy": (losses_policy.cases, losses_policy.ours),
    "preference": (losses_preference.cases, losses_preference.ours),
}
"""The peer's script of a section is `peers/losses_SECTION.py`: MODEL CASES OUT. It writes, for each case, the tensors
`CASE/loss` and `CASE/gradient/PARAMETER`."""


def small_model(folder: Path) -> LanguageModel:
    """A random Llama with the starter's tokenizer, saved for both sides."""
    tokenizer = load_tokenizer("starter")
    config = {
        "model_type": "llama",
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf(config))
    model.tokenizer = tokenizer
    save(model, folder)
    return load(folder, kind=LanguageModel)


def compare(section: str, folder: Path, model: LanguageModel, peer_python: Path) -> dict[str, dict[str, float]]:
    """How far loss and gradient of each case are from the peer's: absolute, and of the gradient's own length."""
    make, ours = SECTIONS[section]
    made = make(model)
    cases, out = folder / f"{section}.json", folder / f"{section}.safetensors"
    cases.write_text(json.dumps(made))
    script = Path(__file__).parent / "peers" / f"losses_{section}.py"
    done = subprocess.run(
        [str(peer_python), str(script), str(folder / "model"), str(cases), str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{script.name}: {done.stderr[-3000:]}")
    theirs = load_file(out)
    found = {}
    for name, case in made.items():
        model.zero_grad(set_to_none=True)
        loss = ours(model, case)
        loss.backward()
        mine = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
        peer = {key: theirs[f"{name}/gradient/{key}"] for key in mine}
        length = torch.cat([each.flatten() for each in peer.values()]).norm()
        gap = torch.cat([(mine[key] - peer[key]).flatten() for key in mine])
        found[name] = {
            "loss": round(loss.item(), 6),
            "loss_gap": abs(loss.item() - float(theirs[f"{name}/loss"])),
            "gradient_gap": float(gap.abs().max()),
            "gradient_gap_relative": float(gap.norm() / length),
            "gradient_norm": round(float(length), 4),
        }
        print(f"{section}: {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--peer-python", type=Path, default=ROOT / ".venv-bench-losses" / "bin" / "python")
    options = parser.parse_args()
    if not options.peer_python.exists():
        raise SystemExit("TRL is not there; `make bench NAME=losses` sets it up")
    with tempfile.TemporaryDirectory() as home:
        model = small_model(Path(home) / "model")
        table = {each: compare(each, Path(home), model, options.peer_python) for each in options.sections}
    rows = [row for cases in table.values() for row in cases.values()]
    agree = sum(max(row["loss_gap"], row["gradient_gap_relative"]) <= BAR for row in rows)
    result = {
        "name": "losses",
        "ours": agree,
        "peer": len(rows),
        "ratio": agree / len(rows),
        "unit": "losses that equal TRL's on the same batch",
        "bar": f"all: the loss to {BAR}, and the gradient to {BAR} of its length",
        "holds": agree == len(rows),
        "notes": table | {"worst": {key: max(row[key] for row in rows) for key in GAPS}},
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
