"""A sweep of small models on real text: the largest size's loss, predicted by a law that has not seen it.

The text is Python's enhancement proposals, WikiText-2's validation part and four novels, in byte-pair tokens of a
vocabulary of 512 that is made from the training part; every twentieth piece of the text is held out. Fifteen runs (five
sizes at each of three budgets) train in `--hours` on this machine. Approaches 1, 2 and 3 are fitted.

The bar: the held-out loss of the largest size lies within its 95% interval. `ours` is the prediction's distance from
it, and `peer` that of the baseline, the loss of the nearest smaller size.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from modelworks.core.errors import ModelworksError
from modelworks.core.paths import cache_dir
from modelworks.data.shards import MANIFEST, write_shards
from modelworks.scaling.runs import read_runs
from modelworks.text.tokenizer import Tokenizer
from modelworks.train.sweep import RUNS, read_sweep, report, sweep

TEXT = Path(__file__).parents[2] / "shared" / "data" / "text"
RECIPE = Path(__file__).parents[1] / "recipes" / "sweep.toml"
VOCABULARY = 512
PIECE = 20_000  # characters: held out are whole pieces
HELD_OUT = 20  # one piece in so many


def texts() -> Iterator[str]:
    yield (TEXT / "wikitext2_valid.txt").read_text(encoding="utf-8")
    for archive, suffix in (("peps.tar.gz", ".rst"), ("standard_ebooks.tar.gz", ".xhtml")):
        with tarfile.open(TEXT / archive) as tar:
            for member in sorted(tar.getmembers(), key=lambda member: member.name):
                if not (member.isfile() and member.name.endswith(suffix)):
                    continue
                file = tar.extractfile(member)
                assert file is not None
                text = file.read().decode("utf-8", errors="ignore")
                yield re.sub(r"<[^>]+>", "", text) if suffix == ".xhtml" else text


def pieces() -> Iterator[str]:
    for text in texts():
        for at in range(0, len(text), PIECE):
            yield text[at : at + PIECE]


def prepare(home: Path) -> tuple[int, int]:
    """Tokenizer and shards, made once; tokens that are trained on and held out."""
    if not (home / "held" / MANIFEST).exists():
        every = list(pieces())
        parts = {
            "train": [piece for at, piece in enumerate(every) if at % HELD_OUT],
            "held": [piece for at, piece in enumerate(every) if at % HELD_OUT == 0],
        }
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|endoftext|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(parts["train"], trainer)
        tokenizer = Tokenizer(backend, eos_id=0, pad_id=1)
        (home / "tokenizer").mkdir(parents=True, exist_ok=True)
        tokenizer.save(home / "tokenizer")
        for name, chosen in parts.items():
            with write_shards(home / name, tokenizer) as writer:
                for piece in chosen:
                    writer.add([*tokenizer.encode(piece), 0])
    counts = (json.loads((home / name / MANIFEST).read_text())["tokens"] for name in ("train", "held"))
    return next(counts), next(counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=0.4, help="of training, in all")
    parser.add_argument("--out", type=Path, help="where runs are kept, and gone on from")
    parser.add_argument("--set", nargs="*", default=[], help="what is to differ from recipes/sweep.toml")
    arguments = parser.parse_args()
    if not TEXT.is_dir():
        print(f"missing: {TEXT}")
        return 2
    home = cache_dir() / "benchmarks" / "sweep"
    unique, held = prepare(home)
    print(f"{unique:,} tokens to train on, {held:,} held out; {torch.get_num_threads()} threads")
    recipe = read_sweep(
        RECIPE,
        (
            f"hours={arguments.hours}",
            f'run.model.tokenizer="{home}/tokenizer"',
            f'run.data.train={{"{home}/train" = 1.0}}',
            f'run.data.held_out="{home}/held"',
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
    most = read_runs(folder / RUNS).D_R.max() / unique
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
