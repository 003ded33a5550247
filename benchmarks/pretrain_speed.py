"""Tokens a second of a GPT of 30M parameters in bfloat16, beside nanoGPT, litgpt and transformers' Trainer.

Each side trains in a process of its own on the same batches, all in turn; see `peers/pretrain.py` for what each is. A
side's figure is the best of its medians over rounds, its first steps left out, since what else the machine does can
only slow one down. The bar is on the ratio to the best peer. MFU is against the machine's product of matrices in
bfloat16.

    python benchmarks/pretrain_speed.py [--rounds 3] [--steps 8] [--threads 2] [--compiled]

Needs what `pretrain_speed.peers.txt` lists in `.venv-bench-pretrain-speed`; `make bench NAME=pretrain-speed` sets that
up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from modelworks.kernels.native import threads as all_threads
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.train.speed import flops_per_token, matmul_peak

ROOT = Path(__file__).parents[1]
SCRIPT = Path(__file__).parent / "peers" / "pretrain.py"
PEER_PYTHON = ROOT / ".venv-bench-pretrain-speed" / "bin" / "python"
BAR, WARM = 1.15, 3
SIDES = {"modelworks": sys.executable, "nanogpt": sys.executable, "litgpt": str(PEER_PYTHON), "trainer": sys.executable}
COMPILED = {"nanogpt-compiled": sys.executable, "litgpt-compiled": str(PEER_PYTHON)}


def rate_of(side: str, python: str, steps: int, threads: int) -> float:
    """Median tokens a second of one run, without its first steps."""
    command = [python, str(SCRIPT), side, str(steps + WARM), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return said["tokens"] / statistics.median(said["seconds"][WARM:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=all_threads())
    parser.add_argument("--compiled", action="store_true", help="nanoGPT and litgpt through torch.compile, too")
    options = parser.parse_args()
    if not PEER_PYTHON.exists():
        print(f"{PEER_PYTHON} is missing: make bench NAME=pretrain-speed", file=sys.stderr)
        return 2
    sides = SIDES | (COMPILED if options.compiled else {})
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side, python in sides.items():
            rates[side].append(rate_of(side, python, options.steps, options.threads))
            print(f"  round {number + 1}, {side}: {rates[side][-1]:,.0f} tok/s", flush=True)
    best = {side: max(found) for side, found in rates.items()}
    ours = best.pop("modelworks")
    first = max(best, key=lambda side: best[side])
    torch.set_num_threads(options.threads)
    peak = matmul_peak(torch.bfloat16)
    with torch.device("meta"):
        model = GPT2(GPT2Config(vocab_size=50_304, n_positions=256, n_embd=384, n_layer=6, n_head=6, n_inner=1536))
    holds = ours >= BAR * best[first]
    result = {
        "name": "pretrain-speed",
        "ours": round(ours),
        "peer": round(best[first]),
        "ratio": round(ours / best[first], 3),
        "unit": "tok/s, a GPT of 30M in bfloat16, 8 x 256",
        "bar": f"ratio to the best peer at least {BAR} (aim: 1.25)",
        "holds": holds,
        "notes": {
            "best peer": first,
            "peers": {side: round(rate) for side, rate in best.items()},
            "rounds": {side: [round(rate) for rate in found] for side, found in rates.items()},
            "mfu": round(ours * flops_per_token(model, 256) / peak, 3),
            "peak_gflops": round(peak / 1e9),
            "threads": options.threads,
        },
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
