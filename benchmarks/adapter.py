"""Decoding one sequence of SmolLM2-135M with a LoRA adapter on every matrix of its layers, beside none.

Both run in one process, in turn: a prompt of 64 tokens, then a stretch of 16. A figure is the best stretch's, since
what else the machine does can only slow one down; medians are in the notes. The adapter is random, which changes
nothing of its cost. At rank 16 it reads a fifth of what the packed model does, as the model is small; a larger one
pays less.

    python benchmarks/adapter.py [--rank 16] [--rounds 20] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

import numpy as np

from modelworks.kernels.native import isa
from modelworks.kernels.program import LOGITS, Linear, Program
from modelworks.models.fetch import pull
from modelworks.models.plan import plan

STRETCH = 16
BAR = 0.7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    made = plan(pull("starter"))
    program = Program(made, num_blocks=8, num_threads=options.threads)
    random = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return random.normal(scale=0.01, size=shape).astype(np.float32)

    matrices = {
        name: (values(options.rank, part.cols), values(part.rows, options.rank))
        for step in made.steps
        if isinstance(step, Linear) and step.target != LOGITS
        for name, part in zip(step.names, step.parts, strict=True)
    }
    adapters = {"with": np.array([program.add_adapter(matrices)], np.int32), "without": None}
    table = np.arange(8, dtype=np.int32)[None]
    prompt = [1 + 37 * at % 40000 for at in range(64)]
    speeds: dict[str, list[float]] = {name: [] for name in adapters}

    def step(ids: list[int], held: int, adapter: np.ndarray | None) -> int:
        count = len(ids)
        new, starts, in_cache, wanted = (np.array(each, np.int32) for each in (ids, [0, count], [held], [count - 1]))
        return int(program.step(new, starts, in_cache, table, wanted, adapter)[0].argmax())

    for _ in range(options.rounds):
        for name, adapter in adapters.items():
            token = step(prompt, 0, adapter)
            began = time.perf_counter()
            for at in range(STRETCH):
                token = step([token], len(prompt) + at, adapter)
            speeds[name].append(STRETCH / (time.perf_counter() - began))
    ours, peer = max(speeds["with"]), max(speeds["without"])
    middle = {name: round(statistics.median(each), 1) for name, each in speeds.items()}
    megabytes = sum(a.nbytes + b.nbytes for a, b in matrices.values()) / 1e6
    result = {
        "name": "adapter",
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ours / peer, 3),
        "unit": "tok/s, one sequence, Q4_1",
        "bar": f"{BAR} of the speed without",
        "holds": ours >= BAR * peer,
        "notes": f"rank {options.rank}, {megabytes:.1f} MB beside {made.weight_bytes / 1e6:.1f}; medians {middle}; "
        f"{options.threads} threads, {isa()}; peer is the model without an adapter",
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
