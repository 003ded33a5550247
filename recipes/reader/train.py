"""Train the reader that `modelworks ask` uses to find, or refuse, an answer in a passage.

    python recipes/reader/train.py --data ../shared/data --base MINILM_FOLDER --out runs/reader

Starts from MiniLM (the default embedder); embeddings and the first layers stay frozen, so that the shipped reader is
only the layers that changed. Data: AdversarialQA, Natural Questions (oracle passages) and nine of the sixteen SQuAD2
development articles; two others choose the refusal threshold (`calibrate.py`), and the remaining five are held out for
`benchmarks/grounding.py`. AdversarialQA passages that also stand in held-out or threshold articles are dropped.
Each answerable question is also shown beside a passage of its own source that shares words with it but not the
answer, because at question time most passages that retrieval brings are of that kind.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from questions import HELD_OUT, THRESHOLD, Example, natural_questions, squad
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from modelworks.models.bert import BertConfig, BertEncoder, BertReader, hf_name

FROZEN_LAYERS = 2
MAX_TOKENS = 256


def adversarial(data: Path, banned: set[str]) -> list[Example]:
    pattern = re.compile(r'^Given the following passage\n\n"(.*)",\n\nanswer .*?\n\nQuestion: (.*)\n$', re.DOTALL)
    found = []
    with gzip.open(data / "qa/t0_adversarial_qa.jsonl.gz", "rt") as rows:
        for row in map(json.loads, rows):
            match = pattern.match(row["prompt"])
            answer = row["completion"].removesuffix("<|endoftext|>")
            if match is None or match[1][:80] in banned:
                continue
            at = match[1].find(answer)
            if at >= 0 and match[1].count(answer) <= 3:
                found.append(Example(match[2], match[1], at, at + len(answer), "adversarial"))
    return found


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def distractors(examples: list[Example]) -> list[Example]:
    """For each answerable example, a passage of the same source that shares most words but holds no answer."""
    found = []
    for source in sorted({e.source for e in examples}):
        group = [e for e in examples if e.source == source]
        passages = sorted({e.passage for e in group})
        bags = [words(p) for p in passages]
        frequency = Counter(w for bag in bags for w in bag)
        weight = {w: math.log(1 + len(bags) / n) for w, n in frequency.items()}
        for example in group:
            if example.start is None:
                continue
            answer = example.passage[example.start : example.end].lower()
            asked = words(example.question)
            scores = np.array([sum(weight[w] for w in asked & bag) for bag in bags])
            for i in np.argsort(-scores, kind="stable")[:6]:
                if passages[i] != example.passage and answer not in passages[i].lower():
                    found.append(Example(example.question, passages[i], None, None, source))
                    break
    return found


def encode(tokenizer: Tokenizer, example: Example, rng: random.Random) -> tuple[list[int], list[int], int, int] | None:
    """Ids, segment ids, and the first and last answer token ((0, 0), at [CLS], where there is none)."""
    passage, shift = example.passage, 0
    # Chunks carry the titles above them, so half of the passages do too.
    if example.source not in ("nq", "adversarial") and rng.random() < 0.5:
        heading = example.source.replace("_", " ") + "\n"
        passage, shift = heading + passage, len(heading)
    encoded = tokenizer.encode(example.question, passage)
    ids, segments, offsets = encoded.ids[:MAX_TOKENS], encoded.type_ids[:MAX_TOKENS], encoded.offsets[:MAX_TOKENS]
    if example.start is None:
        return ids, segments, 0, 0
    start, end = example.start + shift, (example.end or 0) + shift
    inside = [i for i, ((a, b), s) in enumerate(zip(offsets, segments)) if s == 1 and a < end and b > start and b > a]
    if not inside or offsets[inside[-1]][1] < end:
        return None
    return ids, segments, inside[0], inside[-1]


def collate(rows: list[tuple[list[int], list[int], int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T = max(len(ids) for ids, *_ in rows)
    ids = torch.zeros(len(rows), T, dtype=torch.long)
    segments, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, (row, segment, _, _) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        segments[i, : len(row)] = torch.tensor(segment)
        mask[i, : len(row)] = 1
    starts, ends = torch.tensor([[s, e] for _, _, s, e in rows]).unbind(1)
    return ids, mask, segments, starts, ends


def logits(model: BertReader, ids: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Start and end logits where only [CLS] and passage tokens can be chosen."""
    start, end = model(ids, mask, segments)
    allowed = (segments * mask).bool()
    allowed[:, 0] = True
    return start.masked_fill(~allowed, -1e4), end.masked_fill(~allowed, -1e4)


@torch.inference_mode()
def evaluate(model: BertReader, rows: list[tuple[list[int], list[int], int, int]]) -> dict[str, float]:
    """AUC of "has an answer", best accuracy over thresholds, and exact spans among the answerable."""
    model.eval()
    margins, truths, exact = [], [], []
    ordered = sorted(rows, key=lambda r: len(r[0]))
    for i in range(0, len(ordered), 16):
        ids, mask, segments, starts, ends = collate(ordered[i : i + 16])
        s, e = logits(model, ids, mask, segments)
        pair = (s[:, :, None] + e[:, None, :]).tril(-1).fill_(0) + (s[:, :, None] + e[:, None, :])
        valid = torch.ones_like(pair, dtype=torch.bool).triu().tril(29)
        valid[:, 0, :] = False
        best, at = pair.masked_fill(~valid, -1e9).flatten(1).max(1)
        margins += (best - s[:, 0] - e[:, 0]).tolist()
        truths += (starts > 0).tolist()
        T = ids.shape[1]
        exact += [(a // T == b and a % T == c) for a, b, c in zip(at.tolist(), starts.tolist(), ends.tolist()) if b > 0]
    model.train()
    m, t = np.array(margins), np.array(truths)
    wins = (m[t][:, None] > m[~t][None, :]).mean()
    accuracy = max(((m > c) == t).mean() for c in m)
    return {"auc": float(wins), "accuracy": float(accuracy), "exact": float(np.mean(exact))}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--base", type=Path, required=True, help="the MiniLM folder")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--steps", type=int, default=1200)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--lr", type=float, default=1e-4)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--resume", type=Path, help="start from this reader's weights instead")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rng = random.Random(options.seed)

    tokenizer = Tokenizer.from_file(str(options.base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoder = BertEncoder(BertConfig.from_hf(json.loads((options.base / "config.json").read_text())))
    weights = load_file(options.base / "model.safetensors")
    encoder.load_state_dict({name: weights[hf_name(name)] for name in encoder.state_dict()})
    model = BertReader(encoder)
    if options.resume:
        model.load_state_dict(load_file(options.resume))
    frozen = [encoder.token_embedding, encoder.position_embedding, encoder.segment_embedding, encoder.embedding_norm]
    for module in [*frozen, *encoder.layers[:FROZEN_LAYERS]]:
        module.requires_grad_(False)

    unseen = squad(options.data, (*HELD_OUT, *THRESHOLD))
    banned = {e.passage[:80] for e in unseen}
    sources = squad(options.data, None, without=(*HELD_OUT, *THRESHOLD))
    sources += adversarial(options.data, banned) + natural_questions(options.data)
    examples = sources + distractors(sources)
    print(Counter((e.source if e.source in ("nq", "adversarial") else "squad", e.start is None) for e in examples))
    tuning = random.Random(1).sample(squad(options.data, THRESHOLD), 320)
    tuning_rows = [row for e in tuning if (row := encode(tokenizer, e, rng))]

    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=options.lr, weight_decay=0.01, betas=(0.9, 0.98))
    options.out.mkdir(parents=True, exist_ok=True)
    queue: list[Example] = []
    model.train()
    began, losses = time.time(), []
    for step in range(options.steps):
        if len(queue) < options.batch * 8:
            fresh = examples[:]
            rng.shuffle(fresh)
            queue = fresh + queue
        # Sort eight batches by length, take the ones in random order: little padding, still random.
        if step % 8 == 0:
            drawn = [row for _ in range(options.batch * 8) if (row := encode(tokenizer, queue.pop(), rng))]
            drawn.sort(key=lambda r: len(r[0]))
            batches = [drawn[i::1][: options.batch] for i in range(0, len(drawn), options.batch)]
            rng.shuffle(batches)
        rate = min(1.0, (step + 1) / 60) * max(0.02, 1 - step / options.steps)
        for group in optimizer.param_groups:
            group["lr"] = options.lr * rate
        ids, mask, segments, starts, ends = collate(batches[step % len(batches)])
        s, e = logits(model, ids, mask, segments)
        loss = (F.cross_entropy(s, starts) + F.cross_entropy(e, ends)) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 25 == 24:
            print(f"{step + 1:5d} loss {np.mean(losses[-25:]):.3f} {time.time() - began:.0f}s", flush=True)
        if step % 200 == 199 or step == options.steps - 1:
            print(f"{step + 1:5d} {evaluate(model, tuning_rows)}", flush=True)
            save_file(model.state_dict(), options.out / "reader.safetensors")


if __name__ == "__main__":
    main()
