"""Seconds to load SmolLM2's GGUF with its tokenizer, beside transformers on the same file.

Each load runs in a process of its own, ours and the peer's in turn, file cache warm, libraries imported beforehand.
The bar: ours under two seconds. The notes give each side's peak memory and the whole process's time.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

BAR_SECONDS = 2.0


def peak_mib() -> float:
    """The process's peak resident memory; unlike getrusage's, it does not begin with the parent's."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def load_ours(path: Path) -> None:
    from modelworks.models.load import load

    assert load(path).tokenizer is not None


def load_peer(path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32")


def child(side: str, path: Path) -> None:
    """One load; prints its seconds, and the peak memory before it and at its end."""
    if side == "ours":
        import modelworks.models.load
        import modelworks.text.tokenizer  # noqa: F401
    else:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    before = peak_mib()
    start = time.perf_counter()
    (load_ours if side == "ours" else load_peer)(path)
    print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak_mib()}))


def run(side: str, path: Path) -> dict[str, float]:
    start = time.perf_counter()
    command = [sys.executable, __file__, "--child", side, str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - start}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return 0

    from modelworks.models.fetch import pull

    path = pull("starter")
    path.read_bytes()  # warms the file cache
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(arguments.rounds):
        for side, done in runs.items():
            done.append(run(side, path))
            print(side, {name: round(value, 2) for name, value in done[-1].items()})
    ours, peer = ({name: statistics.median(one[name] for one in done) for name in done[0]} for done in runs.values())
    holds = ours["seconds"] < BAR_SECONDS
    notes = "; ".join(
        f"{side}: peak {of['peak']:.0f} MiB ({of['before']:.0f} before), whole process {of['process']:.1f} s"
        for side, of in (("ours", ours), ("transformers", peer))
    )
    print(
        json.dumps(
            {
                "name": "load",
                "ours": round(ours["seconds"], 2),
                "peer": round(peer["seconds"], 2),
                "ratio": round(ours["seconds"] / peer["seconds"], 3),
                "unit": "s",
                "bar": f"ours < {BAR_SECONDS:g} s",
                "holds": holds,
                "notes": f"SmolLM2-135M Q4_1 to float32, median of {arguments.rounds}; {notes}",
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
