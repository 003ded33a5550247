"""Decoding one sequence of SmolLM2-135M from GGUF files, beside llama.cpp built for this machine.

Each runs in a process of its own, ours and the peer in turn: it loads the file, takes a prompt of 64 tokens, and
generates greedily. A run's figure is the best of its stretches of 16 tokens, since what else the machine does can only
slow one down; medians are in the notes. Resident memory is the process's peak. `modelworks bench` measures the same
of any model, by the same code.

    python benchmarks/decode.py [--rounds 3] [--threads 2] [--formats Q4_0 Q4_1 Q8_0 Q4_K]

The files other than the starter's own are made from it by llama.cpp's quantiser, and kept in `.cache/bench`.
Needs what `decode.peers.txt` lists in `.venv-bench-decode`; `make bench NAME=decode` sets that up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from modelworks.engine.bench.compare import LLAMA, OWN, Figure, Task, compare, find_peers, own
from modelworks.kernels.native import threads
from modelworks.models.fetch import pull

ROOT = Path(__file__).parents[1]
PEER_PYTHON = ROOT / ".venv-bench-decode" / "bin" / "python"
FILES = ROOT / ".cache" / "bench"
ALL_FORMATS = ["Q4_0", "Q4_1", "Q8_0", "Q4_K"]
FORMATS = {"Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "Q4_K": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}


def file_of(kind: str) -> Path:
    """SmolLM2 in a format: the starter's file, or one made from it."""
    starter = pull("starter")
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


def table_of(
    measure: str, options: argparse.Namespace, **task: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """For each format the figures of both, run in turn; and what each said of itself."""
    peers, missing = find_peers([PEER_PYTHON], [LLAMA])
    if missing:
        raise SystemExit(f"{LLAMA}: {missing[LLAMA]}")
    table, about = {}, {}
    for kind in options.formats:
        what = Task(model=str(file_of(kind)), threads=options.threads, kinds=(measure, "memory"), **task)
        outcomes = compare(what, [own(), *peers], rounds=options.rounds)
        if fault := outcomes[LLAMA].fault:
            raise SystemExit(f"{LLAMA}: {fault}")
        ours, peer = (Figure.of(outcomes[side].samples[measure], higher_is_better=True) for side in (OWN, LLAMA))
        peaks = {side: round(max(outcomes[side].samples["memory"])) for side in (OWN, LLAMA)}
        table[kind] = {
            "ours": round(ours.best, 1),
            "peer": round(peer.best, 1),
            "ratio": round(ours.best / peer.best, 3),
            "median_ours": round(ours.median, 1),
            "median_peer": round(peer.median, 1),
            "median_ratio": round(ours.median / peer.median, 3),
            "peak_mib": peaks[OWN],
            "peer_peak_mib": peaks[LLAMA],
        }
        if "decode" in what.kinds:
            said = [outcomes[side].tokens["decode"] for side in (OWN, LLAMA)]
            table[kind]["same_tokens"] = sum(a == b for a, b in zip(*said))
        about = {side: outcome.about for side, outcome in outcomes.items()}
        print(f"{kind}: {table[kind]}", flush=True)
    return table, about


def arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=threads())
    parser.add_argument("--formats", nargs="+", choices=ALL_FORMATS, default=ALL_FORMATS)
    options = parser.parse_args()
    if not PEER_PYTHON.exists():
        print(f"{PEER_PYTHON} is missing: make bench NAME=decode", file=sys.stderr)
        raise SystemExit(2)
    return options


def main() -> int:
    options = arguments(__doc__)
    table, about = table_of("decode", options, context=64, tokens=128)
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
        "notes": {"formats": table, "threads": options.threads, "about": about},
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
