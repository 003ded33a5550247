"""Speculation by prompt lookup: exact, and how much faster where an answer copies.

1. Greedy answers to 50 prompts, with and without: every token must be equal.
2. A vocabulary of five tokens, p and q enumerated: tokens drawn through speculation against the filtered p, chi-square
   at temperatures .5, 1 and 1.5 and at top-p .9; the bound is exceeded once in 10,000 times.
3. Tokens per second on a copy-heavy task: a passage of the handbook, which is then begun again.

The bar is exactness; the speed-up is stated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch

from modelworks.engine.engine import Engine
from modelworks.engine.runner import open_model
from modelworks.engine.sample import Sampling, filtered
from modelworks.engine.speculate import SpeculativeSampler, prompt_lookup

SETTINGS = [Sampling(temperature=t, seed=1) for t in (0.5, 1.0, 1.5)] + [Sampling(temperature=1.0, top_p=0.9, seed=1)]


def identical(plain: Engine, speculative: Engine, prompts: list[list[int]], tokens: int) -> tuple[int, float]:
    """How many greedy answers are equal, and which part of the guesses was right."""
    answers = []
    for engine in (plain, speculative):
        handles = [engine.submit(prompt, Sampling(max_tokens=tokens)) for prompt in prompts]
        answers.append([[index for piece in handle for index in piece.ids] for handle in handles])
    counts = speculative.stats().counts
    return sum(a == b for a, b in zip(*answers, strict=True)), counts.accepted_tokens / max(1, counts.drafted_tokens)


def chi_square(sampling: Sampling, draws: int) -> tuple[float, float]:
    """The statistic of tokens drawn through speculation against the filtered target, and its bound."""
    target, draft = torch.tensor([1.0, 0.3, -0.2, 2.0, -1.0]), torch.tensor([0.2, 1.5, 0.1, 1.0, -3.0])
    p_V, q_V = filtered(target, sampling).softmax(-1), filtered(draft, sampling).softmax(-1)
    guesses = torch.multinomial(q_V, draws, replacement=True, generator=torch.Generator().manual_seed(9)).tolist()
    sampler = SpeculativeSampler(sampling, [], len(target))
    counts = [0] * len(target)
    for guess in guesses:
        sampler.proposed = (guess, q_V)
        counts[sampler.choose(target)] += 1
    assert all(count == 0 for count, p in zip(counts, p_V.tolist(), strict=True) if p == 0)
    cells = [(count, p * draws) for count, p in zip(counts, p_V.tolist(), strict=True) if p > 0]
    spread = 2 / (9 * (len(cells) - 1))  # Wilson and Hilferty 1931
    bound = (len(cells) - 1) * (1 - spread + 3.719 * math.sqrt(spread)) ** 3
    return sum((count - mean) ** 2 / mean for count, mean in cells), bound


def speed(engine: Engine, prompt: list[int], tokens: int) -> tuple[float, list[int]]:
    """Tokens per second after the first, and the answer."""
    pieces = iter(engine.submit(prompt, Sampling(max_tokens=tokens)))
    ids = list(next(pieces).ids)
    began, first = time.perf_counter(), len(ids)
    ids += [index for piece in pieces for index in piece.ids]
    return (len(ids) - first) / (time.perf_counter() - began), ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--tokens", type=int, default=32, help="of each of the 50 answers")
    parser.add_argument("--draws", type=int, default=50_000, help="at each of the four settings")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)  # for the 5-token draws; the native program has threads of its own
    model, runner = open_model(options.model, kv_bytes=256 << 20)
    _, other = open_model(options.model if next(model.parameters()).is_meta else model, kv_bytes=256 << 20)
    assert model.tokenizer is not None
    docs = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
    paragraphs = [part for path in docs for part in path.read_text().split("\n\n") if len(part) > 200]
    with (
        Engine(model, runner=runner) as plain,
        Engine(model, runner=other, speculation=prompt_lookup()) as speculative,
    ):
        prompts = [model.tokenizer.encode(part)[:64] for part in paragraphs[:50]]
        equal, accepted = identical(plain, speculative, prompts, options.tokens)
        print(f"  {equal} of {len(prompts)} greedy answers equal; {accepted:.0%} of guesses right")
        fair = True
        for sampling in SETTINGS:
            statistic, bound = chi_square(sampling, options.draws)
            fair = fair and statistic < bound
            print(f"  T={sampling.temperature} top_p={sampling.top_p}: chi-square {statistic:.1f}, bound {bound:.1f}")
        passage = model.tokenizer.encode("\n\n".join(paragraphs[:3]))[:300]
        copied = [*passage, *model.tokenizer.encode("\n\nThe same text again:\n\n"), *passage[:24]]
        ours, peer, before = [], [], speculative.stats().counts
        for at in range(options.rounds):
            fast, answer = speed(speculative, copied, 128)
            slow, expected = speed(plain, copied, 128)
            equal -= answer != expected
            ours.append(fast)
            peer.append(slow)
            print(f"  round {at + 1}: {fast:.1f} tok/s, without speculation {slow:.1f}")
        after = speculative.stats().counts
        right = (after.accepted_tokens - before.accepted_tokens) / max(1, after.drafted_tokens - before.drafted_tokens)
    holds = equal == len(prompts) and fair
    ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
    print(
        json.dumps(
            {
                "name": "speculate",
                "ours": round(statistics.median(ours), 1),
                "peer": round(statistics.median(peer), 1),
                "ratio": round(ratio, 2),
                "unit": "tok/s",
                "bar": "50 of 50 greedy answers equal, and chi-square under its bound at four settings",
                "holds": holds,
                "notes": f"{options.model} on {type(runner).__name__}; {equal} of {len(prompts)} equal; chi-square "
                f"{'holds' if fair else 'FAILS'} with {options.draws} draws each; copy-heavy task, {right:.0%} of the "
                "guesses right; peer is the same engine without speculation",
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
