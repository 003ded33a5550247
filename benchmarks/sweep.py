"""A sweep of small models on real text: the largest size's loss, predicted by a law that has not seen it.

The text is that of `support/texts.py`, in byte-pair tokens of a vocabulary of 512. Fifteen runs (five sizes at each of
three budgets) train in `--hours` on this machine. Approaches 1, 2 and 3 are fitted.

The bar: the held-out loss of the largest size lies within its 95% interval. `ours` is the prediction's distance from
it, and `peer` that of the baseline, the loss of the nearest smaller size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from modelworks.core.errors import ModelworksError
from modelworks.core.paths import cache_dir
from modelworks.scaling.runs import read_runs
from modelworks.train.sweep import RUNS, read_sweep, report, sweep
from support.texts import corpus

RECIPE = Path(__file__).parents[1] / "recipes" / "sweep.toml"
VOCABULARY = 512


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=0.4, help="of training, in all")
    parser.add_argument("--out", type=Path, help="where runs are kept, and gone on from")
    parser.add_argument("--set", nargs="*", default=[], help="what is to differ from recipes/sweep.toml")
    arguments = parser.parse_args()
    home = cache_dir() / "benchmarks" / "sweep"
    _, texts, held = corpus(home, VOCABULARY)
    print(f"{texts.tokens:,} tokens to train on, {held.tokens:,} held out; {torch.get_num_threads()} threads")
    recipe = read_sweep(
        RECIPE,
        (
            f"hours={arguments.hours}",
            f'run.model.tokenizer="{home}/texts-{VOCABULARY}/tokenizer"',
            f'run.data.train={{"{texts.folder}" = 1.0}}',
            f'run.data.held_out="{held.folder}"',
            *arguments.set,
        ),
    )
    began = time.perf_counter()
    folder = arguments.out or home / f"runs-{time.strftime('%Y%m%d-%H%M%S')}"
    for row in sweep(recipe, folder):
        print(
            f"{row.run:12} {row.parameters:>9,} parameters {row.tokens:>11,} tokens  loss {row.loss:.4f}  "
            f"{row.seconds:.0f} s",
            flush=True,
        )
    found = report(recipe, folder)
    minutes = (time.perf_counter() - began) / 60
    for name, value in found.law.parameters().items():
        print(f"{name:6} {value:.4g}")
    for approach, (a, low, high) in sorted(found.exponents.items()):
        print(f"approach {approach}: a {a:.3f} ({low:.3f} to {high:.3f})")
    for approach, reason in found.left_out.items():
        print(f"approach {approach} left out: {reason}")
    told, ours, peer = [], [], []
    for one in found.predictions:
        low, high = one.interval
        ours.append(abs(one.predicted - one.reached))
        peer.append(abs(one.nearest - one.reached))
        told.append(
            f"{one.N:,.0f} parameters on {one.D:,.0f} tokens: predicted {one.predicted:.4f} ({low:.4f} to {high:.4f}), "
            f"reached {one.reached:.4f}, next smaller size {one.nearest:.4f}"
        )
        print(told[-1])
    holds = all(one.within for one in found.predictions)
    most = read_runs(folder / RUNS).D_R.max() / texts.tokens
    exponents = ", ".join(f"approach {name} {a:.3f}" for name, (a, *_) in sorted(found.exponents.items()))
    result = {
        "name": "sweep",
        "ours": round(max(ours), 4),
        "peer": round(max(peer), 4),
        "ratio": round(max(peer) / max(max(ours), 1e-4), 2),
        "unit": "nats a token",
        "bar": "the largest size's loss within the 95% interval that was predicted without it",
        "holds": holds,
        "notes": f"{'; '.join(told)}; a by {exponents}; {found.law.rows} runs in {minutes:.0f} minutes, at most "
        f"{most:.1f} epochs",
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ModelworksError as error:  # stopped, or too little time for sizes to differ
        print(error)
        sys.exit(2)
