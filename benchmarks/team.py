"""Teams against one agent at equal tokens, on grade-school problems.

Two teams of SmolLM2-135M answer problems of GSM8K's test set:

- `debate`: three debaters, two rounds, the majority decides (Du et al. 2023, arXiv:2305.14325).
- `supervisor`: it routes to a solver and a critic until it finishes.

Against each, one agent answers by self-consistency over as many chains as that team's tokens pay for, problem by
problem; tokens are those of prompts and answers. The first answer of each debate is what one call is worth.

    python benchmarks/team.py [--limit 100] [--teams debate supervisor] [--threads 1]

Each problem is kept when it is done. A problem takes about ten seconds on one core for each team.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from modelworks.agents.limits import Limits
from modelworks.agents.local import LocalModel
from modelworks.agents.model import ChatModel, Message
from modelworks.agents.planning.budget import Spent
from modelworks.agents.planning.chain import Chain
from modelworks.agents.steps import Answer
from modelworks.agents.team.compare import Case, Comparison, Team, compare
from modelworks.agents.team.debate import Decided, Said, debate
from modelworks.agents.team.roles import Role
from modelworks.agents.team.supervisor import supervisor
from modelworks.core.log import console
from modelworks.core.paths import cache_dir
from modelworks.engine.engine import Engine
from modelworks.engine.sample import Sampling
from modelworks.evals.answers import final_number
from modelworks.evals.intervals import wilson
from modelworks.evals.tasks import Example, gsm8k
from support.items import Row, each

DATA = Path(__file__).parents[2] / "shared" / "data" / "reasoning" / "gsm8k_test.jsonl"
INSTRUCTION = 'Think step by step, and end with "####" and the number.'
DEBATERS, ROUNDS = 3, 2
MAX_TOKENS = 384
SOLVER = Role("solver", "Solves a problem step by step.", f"You solve problems with numbers. {INSTRUCTION}")
CRITIC = Role("critic", "Checks a solution and mends it.", f"You check each calculation and mend it. {INSTRUCTION}")


class Debate:
    """A team that keeps what was said first."""

    def __init__(self) -> None:
        self.first: Chain | None = None

    def __call__(self, model: ChatModel, messages: Sequence[Message]) -> Hashable | None:
        *talk, decided = debate(
            [model] * DEBATERS, messages, rounds=ROUNDS, extract=final_number, max_tokens=MAX_TOKENS
        )
        first = talk[0]
        assert isinstance(first, Said)
        assert isinstance(decided, Decided)
        self.first = first.chain
        return decided.answer


def routed(model: ChatModel, messages: Sequence[Message]) -> Hashable | None:
    limits = Limits(steps=4, reply_tokens=MAX_TOKENS)
    members = [role.agent(model, limits=limits) for role in (SOLVER, CRITIC)]
    told = {role.name: role.description for role in (SOLVER, CRITIC)}
    run = supervisor(model, members, descriptions=told, limits=limits).run(str(messages[-1]["content"]))
    for _ in run:
        pass
    return final_number(run.end.text) if isinstance(run.end, Answer) else None


TEAMS: dict[str, Callable[[], Team]] = {"debate": Debate, "supervisor": lambda: routed}


def asked(model: ChatModel, example: Example, name: str) -> Row:
    team = TEAMS[name]()
    (case,) = compare(model, [example], team, extract=final_number, max_tokens=MAX_TOKENS)
    row = asdict(case)
    if isinstance(team, Debate):
        assert team.first is not None
        row["first_right"] = team.first.answer == final_number(example.reference)
    return row


def read(row: Row) -> Case:
    return Case(row["team_right"], row["alone_right"], Spent(**row["team"]), Spent(**row["alone"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="a model reference")
    parser.add_argument("--limit", type=int, default=100, help="problems, at most 1,319")
    parser.add_argument("--teams", nargs="+", choices=list(TEAMS), default=list(TEAMS))
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=4, help="asked at a time")
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "team")
    options = parser.parse_args()
    if not DATA.exists():
        print(f"{DATA} is absent", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    examples = {str(at): one for at, one in enumerate(gsm8k(DATA, instruction=INSTRUCTION)[: options.limit])}
    found: dict[str, Comparison] = {}
    notes = {}
    with Engine(options.model) as engine:
        model = LocalModel(engine, sampling=Sampling(temperature=options.temperature, top_p=0.95))
        for name in options.teams:
            named = (
                f"{name}-{options.model.replace('/', '--')}-{options.temperature:g}-{DEBATERS}x{ROUNDS}-{MAX_TOKENS}"
            )
            rows = each(
                options.work / f"{named}.jsonl",
                examples,
                lambda key, name=name: asked(model, examples[key], name),  # type: ignore[misc]
                workers=options.workers,
            )
            found[name] = Comparison([read(row) for row in rows])
            gain, ends = found[name].gain
            notes[name] = {
                "team": str(found[name].team),
                "one_agent": str(found[name].alone),
                "gain": [round(gain, 4), *(round(end, 4) for end in ends)],
            }
            if name == "debate":
                right = sum(row["first_right"] for row in rows)
                low, high = wilson(right, len(rows))
                notes[name]["one_call"] = f"{right} of {len(rows)} (95%: {low:.3f} to {high:.3f})"
            console().print(f"{name}\n{found[name]}", highlight=False)
    shown = options.teams[0]
    ours, peer = found[shown].team.rate, found[shown].alone.rate
    result = {
        "name": "team",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 3) if peer else None,
        "unit": f"right answers of {len(examples)} problems of GSM8K, by {shown} and by one agent at its tokens",
        "bar": f"{shown} above one agent at equal tokens, by the paired 95% interval",
        "holds": found[shown].gain[1][0] > 0,
        "notes": notes | {"model": options.model},
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
