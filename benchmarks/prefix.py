"""Time to the first token of a second request that shares its first 1,000 tokens with one before.

The texts are this project's own handbook; each round shares a prefix of its own, so that the first request of a round
finds nothing in the cache. The bar: the second waits less than a tenth as long as the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from modelworks.engine.engine import Engine
from modelworks.engine.sample import Sampling

PREFIX = 1000
BAR = 0.1


def first_token(engine: Engine, prompt: list[int]) -> tuple[float, int, tuple[int, ...]]:
    """Seconds from asking to the first token, how many tokens the cache had, and the answer."""
    began = time.perf_counter()
    handle = engine.submit(prompt, Sampling(max_tokens=8))
    pieces = iter(handle)
    ids = next(pieces).ids
    waited = time.perf_counter() - began
    return waited, handle.cached_tokens, ids + tuple(index for piece in pieces for index in piece.ids)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    docs = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
    text = "\n\n".join(path.read_text() for path in docs)
    with Engine(options.model) as engine, Engine(options.model, prefix_cache=False) as without:
        assert engine.model.tokenizer is not None
        ids = engine.model.tokenizer.encode(text)
        questions = [engine.model.tokenizer.encode(f"\n\nIn short, {word}") for word in ("this says", "one should")]
        rounds = min(options.rounds, (len(ids) - PREFIX) // 500)
        first, second, same = [], [], True
        first_token(engine, [0] * 40)  # memory that is touched for the first time is slow
        for at in range(rounds):
            # Not a multiple of the block size: the last, partly filled block is computed anew.
            prompts = [ids[at * 500 + at : at * 500 + at + PREFIX] + question for question in questions]
            waited, cached, _ = first_token(engine, prompts[0])
            first.append(waited)
            assert cached == 0, "the first request of a round must find nothing"
            waited, cached, answer = first_token(engine, prompts[1])
            second.append(waited)
            same = same and answer == first_token(without, prompts[1])[2]
            print(f"  round {at + 1}: {first[-1]:.3f} s, then {waited:.3f} s with {cached} of {len(prompts[1])} cached")
        kind = type(engine._scheduler._runner).__name__
    ours, peer = statistics.median(second), statistics.median(first)
    holds = ours < BAR * peer and same
    print(
        json.dumps(
            {
                "name": "prefix",
                "ours": round(ours, 4),
                "peer": round(peer, 4),
                "ratio": round(ours / peer, 4),
                "unit": "s to the first token",
                "bar": "under a tenth of the first request's, and the answer that there is without the cache",
                "holds": holds,
                "notes": f"{options.model} on {kind}; medians of {rounds} rounds, a prefix of {PREFIX} tokens; peer is "
                f"the first request; answers {'equal' if same else 'DIFFER from'} those without the cache",
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
