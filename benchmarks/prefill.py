"""Reading a prompt of 512 tokens with SmolLM2-135M from GGUF files, beside llama.cpp built for this machine.

Like `decode.py`: processes of their own, in turn, and the best of a process's passes, with medians in the notes. Every
pass starts from an empty cache and computes the logits of the last token.

    python benchmarks/prefill.py [--rounds 3] [--threads 2] [--formats Q4_0 Q4_1 Q8_0 Q4_K]

Needs the peer that `make bench NAME=decode` builds.
"""

from __future__ import annotations

import json
import sys

from decode import PEER_NAME, arguments, compare

PREFILL = """
import time
prompt = [1 + 37 * i % 40000 for i in range(512)]
tokens, speeds = [], []
for turn in range(int(sys.argv[3]) + 1):
    clear()
    began = time.perf_counter()
    tokens.append(int(step(prompt).argmax()))
    speeds.append(512 / (time.perf_counter() - began))
del speeds[0]  # warms up
"""


def main() -> int:
    options = arguments(__doc__)
    table, isa, build = compare(PREFILL, options, stretches=4)
    first = table[options.formats[0]]
    result = {
        "name": "prefill",
        "ours": first["ours"],
        "peer": first["peer"],
        "ratio": first["ratio"],
        "unit": f"tok/s of a 512-token prompt, {options.formats[0]}",
        "bar": "ratio 2.0 on Q4_0",
        "holds": table.get("Q4_0", first)["ratio"] >= 2.0,
        "notes": {"formats": table, "threads": options.threads, "isa": isa, "peer": f"{PEER_NAME}; {build}"},
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
