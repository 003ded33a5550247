"""Decoding one sequence of SmolLM2-135M from GGUF files, beside llama.cpp built for this machine.

Each runs in a process of its own, ours and the peer in turn: it loads the file, takes a prompt of 64 tokens, and
generates greedily. A run's figure is the best of its stretches of 16 tokens, since what else the machine does can only
slow one down; medians are in the notes. Resident memory is the process's peak.

    python benchmarks/decode.py [--rounds 3] [--threads 2] [--formats Q4_0 Q4_1 Q8_0 Q4_K]

The files other than the starter's own are made from it by llama.cpp's quantiser, and kept in `.cache/bench`.
Needs what `decode.peers.txt` lists in `.venv-bench-decode`; `make bench NAME=decode` sets that up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEER_PYTHON = ROOT / ".venv-bench-decode" / "bin" / "python"
FILES = ROOT / ".cache" / "bench"
PEER_NAME = "llama.cpp of llama-cpp-python 0.3.36, built with GGML_NATIVE=ON"
ALL_FORMATS = ["Q4_0", "Q4_1", "Q8_0", "Q4_K"]
FORMATS = {"Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "Q4_K": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}

# Both halves define step(ids, wanted) -> logits of the last token, over a cache that `clear` empties.
OURS = """
import os, sys
os.environ["MODELWORKS_THREADS"] = sys.argv[2]
import numpy as np
from modelworks.kernels.native import isa
from modelworks.kernels.program import Program
from modelworks.models.plan import plan
program = Program(plan(sys.argv[1]), num_blocks=64)
table, held = np.arange(64, dtype=np.int32)[None], 0
def clear():
    global held
    held = 0
def step(ids):
    global held
    n = len(ids)
    ints = [np.array(x, np.int32) for x in (ids, [0, n], [held], [n - 1])]
    logits = program.step(*ints[:3], table, ints[3])
    held += n
    return logits[0]
about = isa()
"""
PEER = """
import ctypes, sys
import llama_cpp as llama, numpy as np
silent = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(silent, ctypes.c_void_p(0))
llama.llama_backend_init()
model = llama.llama_model_load_from_file(sys.argv[1].encode(), llama.llama_model_default_params())
settings = llama.llama_context_default_params()
settings.n_ctx, settings.n_batch, settings.n_ubatch = 2048, 512, 512
settings.n_threads = settings.n_threads_batch = int(sys.argv[2])
context = llama.llama_init_from_model(model, settings)
vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
def clear():
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
def step(ids):
    tokens = (llama.llama_token * len(ids))(*ids)
    if llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids))):
        raise SystemExit("llama_decode failed")
    return np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (vocab,))
about = llama.llama_print_system_info().decode()
"""
REPORT = """
import json, resource
print(json.dumps({"speeds": speeds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                  "tokens": tokens, "about": about}))
"""
DECODE = """
import time
prompt = [1 + 37 * i % 40000 for i in range(64)]
token, tokens, speeds = int(step(prompt).argmax()), [], []
for stretch in range(int(sys.argv[3])):
    began = time.perf_counter()
    for _ in range(16):
        tokens.append(token)
        token = int(step([token]).argmax())
    speeds.append(16 / (time.perf_counter() - began))
"""


@dataclass(frozen=True)
class Run:
    """What a process reports: tokens a second of each stretch, peak MiB, what was generated, and build or ISA."""

    speeds: list[float]
    peak_mib: float
    tokens: list[int]
    about: str


def measure(python: str | Path, script: str, file: Path, threads: int, stretches: int) -> Run:
    done = subprocess.run(
        [str(python), "-c", script + REPORT, str(file), str(threads), str(stretches)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{python} failed with status {done.returncode} on {file}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def file_of(kind: str) -> Path:
    """SmolLM2 in a format: the starter's file, or one made from it."""
    from modelworks.models.fetch import pull

    starter = pull("starter")
    starter = next(starter.glob("*.gguf")) if starter.is_dir() else starter
    if kind == "Q4_1":
        return starter
    made = FILES / f"smollm2-{kind}.gguf"
    if not made.exists():
        FILES.mkdir(parents=True, exist_ok=True)
        part = made.with_suffix(".part")
        script = (
            "import ctypes, sys, llama_cpp as llama\n"
            "settings = llama.llama_model_quantize_default_params()\n"
            f"settings.ftype, settings.allow_requantize, settings.nthread = llama.{FORMATS[kind]}, True, 1\n"
            "sys.exit(llama.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(settings)))"
        )
        subprocess.run([str(PEER_PYTHON), "-c", script, str(starter), str(part)], check=True, stderr=subprocess.DEVNULL)
        part.rename(made)
    return made


def compare(body: str, options: argparse.Namespace, stretches: int) -> tuple[dict[str, dict[str, float]], str, str]:
    """For each format the figures of both, run alternately; then our ISA and the peer's build."""
    table: dict[str, dict[str, float]] = {}
    for kind in options.formats:
        file = file_of(kind)
        ours, peer = [], []
        for _ in range(options.rounds):
            ours.append(measure(sys.executable, OURS + body, file, options.threads, stretches))
            peer.append(measure(PEER_PYTHON, PEER + body, file, options.threads, stretches))
        best, best_peer = (max(max(run.speeds) for run in runs) for runs in (ours, peer))
        middle, middle_peer = (statistics.median(s for run in runs for s in run.speeds) for runs in (ours, peer))
        table[kind] = {
            "ours": round(best, 1),
            "peer": round(best_peer, 1),
            "ratio": round(best / best_peer, 3),
            "median_ours": round(middle, 1),
            "median_peer": round(middle_peer, 1),
            "median_ratio": round(middle / middle_peer, 3),
            "peak_mib": round(max(run.peak_mib for run in ours)),
            "peer_peak_mib": round(max(run.peak_mib for run in peer)),
            "same_tokens": sum(a == b for a, b in zip(ours[0].tokens, peer[0].tokens)),
        }
        print(f"{kind}: {table[kind]}")
    return table, ours[0].about, peer[0].about


def arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--formats", nargs="+", choices=ALL_FORMATS, default=ALL_FORMATS)
    options = parser.parse_args()
    if not PEER_PYTHON.exists():
        print(f"{PEER_PYTHON} is missing: make bench NAME=decode", file=sys.stderr)
        raise SystemExit(2)
    return options


def main() -> int:
    options = arguments(__doc__)
    table, isa, build = compare(DECODE, options, stretches=8)
    bars = {"Q4_0": 1.5, "Q4_1": 2.5}
    main_kind = options.formats[0]
    small = all(table[kind]["peak_mib"] <= 200 for kind in table if kind.startswith("Q4"))
    result = {
        "name": "decode",
        "ours": table[main_kind]["ours"],
        "peer": table[main_kind]["peer"],
        "ratio": table[main_kind]["ratio"],
        "unit": f"tok/s, one sequence, {main_kind}",
        "bar": "ratio 1.5 on Q4_0, 2.5 on Q4_1; at most 200 MiB at 4 bits",
        "holds": small and all(table[kind]["ratio"] >= bar for kind, bar in bars.items() if kind in table),
        "notes": {"formats": table, "threads": options.threads, "isa": isa, "peer": f"{PEER_NAME}; {build}"},
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
