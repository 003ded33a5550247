"""Near duplicates among Python's enhancement proposals and edited copies of them, beside datasketch.

Both sides get the same texts, split them into words and 5-grams of words, and name what to drop at a Jaccard similarity
of 0.8, with 128 hash functions; ours and the peer in turn, each in a process of its own, libraries imported beforehand.
The peer works as its documentation shows: `MinHash.update_batch`, in its fastest scheme, and `MinHashLSH`, whose
candidates are checked by their signatures. What should be dropped is known exactly: each text is compared with all
earlier ones by their sets of 5-grams; the copies are spread around the threshold, where signatures err most. The bar:
three times as many documents a second, and an F1 of what is dropped no lower by more than a hundredth.

    python benchmarks/dedup.py [--documents 100] [--copies 2] [--rounds 3]      (--documents 0: all)

Needs `peps.tar.gz` in shared/data/text and, in `.venv-bench-dedup`, what `dedup.peers.txt` lists; `make bench` sets the
latter up.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from modelworks.data.ngrams import ngram_hashes, word_hashes
from modelworks.data.sources import File, Text, read_texts

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "text" / "peps.tar.gz"
PEER_PYTHON = ROOT / ".venv-bench-dedup" / "bin" / "python"
THRESHOLD, BAR, MARGIN = 0.8, 3.0, 0.01
OURS = """
import json, sys, time
from modelworks.data.dedup import deduplicate
texts = json.load(open(sys.argv[1]))
began = time.perf_counter()
kept = deduplicate(texts)
print(json.dumps({"seconds": time.perf_counter() - began, "kept": kept}))
"""
PEER = """
import json, re, sys, time
from datasketch import MinHash, MinHashLSH
texts = json.load(open(sys.argv[1]))
began = time.perf_counter()
lsh, kept, words = MinHashLSH(threshold=0.8, num_perm=128), [], re.compile(r"[^\\W_]+")
signatures = {}
for number, text in enumerate(texts):
    found = words.findall(text.lower())
    signature = MinHash(num_perm=128, scheme="affine32")
    signature.update_batch({" ".join(found[at:at + 5]).encode() for at in range(len(found) - 4)})
    if any(signature.jaccard(signatures[other]) >= 0.8 for other in lsh.query(signature)):
        continue
    kept.append(number)
    signatures[number] = signature
    lsh.insert(number, signature)
print(json.dumps({"seconds": time.perf_counter() - began, "kept": kept}))
"""


def plant(texts: list[str], copies: int, seed: int = 0) -> list[str]:
    """The texts, then copies of each in random order, in which up to one word of 30 is replaced."""
    draw = random.Random(seed)
    planted = []
    for text in texts:
        for _ in range(copies):
            words, rate = text.split(" "), draw.random() / 30
            planted.append(" ".join(f"x{draw.random()}" if draw.random() < rate else word for word in words))
    draw.shuffle(planted)
    return texts + planted


def nearest(texts: list[str]) -> list[float]:
    """For each text the similarity of the earlier one that is most like it, exactly."""
    sets = [np.unique(ngram_hashes(word_hashes(text), 5)) for text in texts]
    owners = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
    grams = np.concatenate(sets)
    order = np.argsort(grams, kind="stable")
    grams, owners = grams[order], owners[order]
    sizes = np.array([len(one) for one in sets])
    found = []
    for number, one in enumerate(sets):
        begins, ends = np.searchsorted(grams, one, "left"), np.searchsorted(grams, one, "right")
        counts = ends - begins
        places = np.repeat(begins - np.concatenate(([0], np.cumsum(counts)[:-1])), counts) + np.arange(counts.sum())
        shared = np.bincount(owners[places], minlength=len(sets))[:number]
        found.append(float((shared / np.maximum(sizes[:number] + len(one) - shared, 1)).max(initial=0.0)))
    return found


def measure(python: Path, script: str, texts: Path) -> tuple[float, list[int]]:
    done = subprocess.run([python, "-c", script, texts], check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], result["kept"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=0, help="of the proposals; 0 takes all")
    parser.add_argument("--copies", type=int, default=2, help="edited copies of each")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for missing in (path for path in (DATA, PEER_PYTHON) if not path.exists()):
        print(f"missing: {missing.name}; see the text at the head of {Path(__file__).name}")
        return 2

    found = [item.text for item in read_texts(File(DATA.name, DATA)) if isinstance(item, Text)]
    texts = plant(found[: arguments.documents or None], arguments.copies)
    similarity = np.array(nearest(texts))
    like = similarity >= THRESHOLD
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    right: dict[str, tuple[float, float]] = {}
    sure: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(texts))
        for _ in range(arguments.rounds):
            for side, python, script in (("ours", Path(sys.executable), OURS), ("peer", PEER_PYTHON, PEER)):
                took, kept = measure(python, script, path)
                seconds[side].append(took)
                dropped = np.ones(len(texts), bool)
                dropped[kept] = False
                right[side] = (like & dropped).sum() / like.sum(), (like & dropped).sum() / dropped.sum()
                sure[side] = int(((similarity >= 0.9) & ~dropped).sum() + ((similarity < 0.7) & dropped).sum())
                print(f"{side}: {took:.2f} s, recall {right[side][0]:.3f}, precision {right[side][1]:.3f}")
    rate = {side: len(texts) / statistics.median(took) for side, took in seconds.items()}
    ratio = rate["ours"] / rate["peer"]
    f1 = {side: 2 / (1 / recall + 1 / precision) for side, (recall, precision) in right.items()}
    holds = bool(ratio >= BAR and f1["ours"] >= f1["peer"] - MARGIN)
    characters = sum(map(len, texts)) / 1e6
    said = {
        side: f"F1 {f1[side]:.3f}, recall {right[side][0]:.3f}, precision {right[side][1]:.3f}, {sure[side]} wrong "
        "below .7 or above .9"
        for side in right
    }
    notes = (
        f"{len(texts)} texts of {characters:.0f} million characters, {int(like.sum())} to drop; "
        f"ours: {said['ours']}; peer: {said['peer']}"
    )
    print(
        json.dumps(
            {
                "name": "dedup",
                "ours": round(rate["ours"], 1),
                "peer": round(rate["peer"], 1),
                "ratio": round(ratio, 2),
                "unit": "documents/s",
                "bar": f"{BAR:g} times, F1 within {MARGIN} of the peer's or above",
                "holds": holds,
                "notes": notes,
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
