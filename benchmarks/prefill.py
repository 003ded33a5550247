"""Reading a prompt of 512 tokens with SmolLM2-135M from GGUF files, beside llama.cpp built for this machine.

Like `decode.py`: processes of their own, in turn, and the best of a process's passes, with medians in the notes. Every
pass starts from an empty cache and computes the logits of the last token.

    python benchmarks/prefill.py [--rounds 3] [--threads 2] [--formats Q4_0 Q4_1 Q8_0 Q4_K]

Needs the peer that `make bench NAME=decode` builds.
"""

from __future__ import annotations

import json
import sys

from decode import arguments, table_of


def main() -> int:
    options = arguments(__doc__)
    table, about = table_of("prefill", options, context=512, passes=4)
    first = table[options.formats[0]]
    result = {
        "name": "prefill",
        "ours": first["ours"],
        "peer": first["peer"],
        "ratio": first["ratio"],
        "unit": f"tok/s of a 512-token prompt, {options.formats[0]}",
        "bar": "ratio 2.0 on Q4_0",
        "holds": table.get("Q4_0", first)["ratio"] >= 2.0,
        "notes": {"formats": table, "threads": options.threads, "about": about},
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
