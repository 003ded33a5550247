"""Game of 24: what of a tree search's success is the model's, and what is the search's.

Four numbers and + - * / make 24. The 100 puzzles are those of rank 901 to 1000, as in Yao et al. 2023
(arXiv:2305.10601). SmolLM2-135M may be called so many times a puzzle, whichever way:

- `sampling`: it writes whole solutions, as text; the exact checker takes the first that is right.
- `chains`: it chooses among all legal steps, three calls a solution.
- `tree`: the same choices, as proposals of a depth-first search; the exact checker sees only what makes 24.
- `tree, values`: best-first, valued by its log-probabilities of "sure", "likely" and "impossible"; a value is a call.
- `tree, exact`: depth-first, and only where an exact test says that 24 can still be reached.

A search that ends before its calls begins again. Each way but the first runs with chance in the model's place, too,
which is what the code does by itself; and `enumerator` proposes every legal step, without a model. What the model adds
is its row less chance's.

    python benchmarks/game24.py [--calls 30] [--limit 100] [--threads 1]

Examples and settings come from puzzles of other ranks. Each puzzle is kept when it is done; all arms together take
about a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from modelworks.agents.planning.budget import Budget, SpentError
from modelworks.agents.planning.tree import BestFirst, DepthFirst, Order, finished, search
from modelworks.agents.planning.value import choice_logprobs
from modelworks.core.log import console
from modelworks.core.paths import cache_dir
from modelworks.engine.engine import Engine
from modelworks.engine.grammar import Grammar
from modelworks.engine.many import answer_all
from modelworks.engine.sample import Sampling
from modelworks.evals.intervals import bootstrap, wilson
from support.items import Row, each

PUZZLES = Path(__file__).parents[2] / "shared" / "data" / "reasoning" / "game_of_24.csv"
FIRST, LAST = 901, 1000
SHOTS = (101, 251, 401, 551, 701)  # ranks
TARGET = Fraction(24)
AT_ONCE = 8
WHOLE = Sampling(temperature=0.7, max_tokens=96, stop=("\n\n",))  # the paper's temperature
STEP = Sampling(temperature=1.0, max_tokens=64)  # the model's own distribution over legal steps
LABELS = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}  # the paper's
RULES = "Use two of the numbers left in each step, with + - * or /, to make 24."

Numbers = tuple[Fraction, ...]


@dataclass(frozen=True)
class State:
    """The numbers that are left, in order, and the steps so far."""

    left: Numbers
    steps: tuple[str, ...] = ()


def shown(numbers: Sequence[Fraction]) -> str:
    return " ".join(map(str, numbers))


@lru_cache(maxsize=100_000)
def moves(left: Numbers) -> tuple[tuple[str, Numbers], ...]:
    """All legal steps, as text, with what they leave."""
    found = {}
    for i, a in enumerate(left):
        for j, b in enumerate(left):
            if i == j:
                continue
            rest = [number for at, number in enumerate(left) if at not in (i, j)]
            results = {"-": a - b} | ({"/": a / b} if b else {})
            if i < j:
                results |= {"+": a + b, "*": a * b}
            for sign, result in results.items():
                after = tuple(sorted([*rest, result]))
                found[f"{a} {sign} {b} = {result} (left: {shown(after)})"] = after
    return tuple(found.items())


@lru_cache(maxsize=100_000)
def can_reach(left: Numbers) -> bool:
    if len(left) == 1:
        return left[0] == TARGET
    return any(can_reach(after) for _, after in moves(left))


def is_goal(state: State) -> bool:
    return state.left == (TARGET,)


def solution(left: Numbers) -> tuple[str, ...]:
    outcome = finished(
        search(
            State(left),
            propose=all_steps,
            goal=is_goal,
            evaluate=exactly,
            order=DepthFirst(prune=1.0),
            key=lambda s: s.left,
        )
    )
    return outcome.state.steps


def all_steps(state: State) -> list[State]:
    return [State(after, (*state.steps, text)) for text, after in moves(state.left)]


def exactly(states: Sequence[State]) -> list[float]:
    return [float(can_reach(state.left)) for state in states]


class Asker:
    """The model, or chance in its place, at one puzzle; every call is taken from the budget."""

    def __init__(self, engine: Engine | None, shots: str, start: Numbers, budget: Budget, seed: int):
        self._engine, self._shots, self._start, self.budget = engine, shots, start, budget
        self._draw = random.Random(f"{seed} {shown(start)}")
        self.tokens = 0

    def _prompt(self, steps: Sequence[str]) -> str:
        return "".join([self._shots, f"Numbers: {shown(self._start)}\n", *(f"{step}\n" for step in steps)])

    def _texts(self, prompt: str, count: int, sampling: Sampling) -> list[str]:
        assert self._engine is not None
        seeds = [self._draw.getrandbits(32) for _ in range(count)]
        answers = list(answer_all(self._engine, [(prompt, replace(sampling, seed=seed)) for seed in seeds]))
        self.tokens += sum(len(answer.ids) for answer in answers)
        return [answer.text for answer in answers]

    def solutions(self, count: int) -> list[str]:
        """Whole solutions, in the model's own words."""
        self.budget.take(count)
        return self._texts(self._prompt(()), count, WHOLE)

    def steps(self, state: State, count: int) -> list[State]:
        """Legal steps from a state, one a call."""
        self.budget.take(count)
        legal = dict(moves(state.left))
        if self._engine is None:
            chosen = self._draw.choices(list(legal), k=count)
        else:
            grammar = Grammar.regex("|".join(map(re.escape, legal)))
            chosen = self._texts(self._prompt(state.steps), count, replace(STEP, grammar=grammar))
        return [State(legal[text], (*state.steps, text)) for text in chosen]

    def values(self, states: Sequence[State]) -> list[float]:
        """Whether 24 can be reached: the expectation over the labels, each one call; chance says anything."""
        self.budget.take(len(states))
        if self._engine is None:
            return [self._draw.random() for _ in states]
        prompts = [f"{VALUES}{shown(state.left)}:" for state in states]
        found = []
        for row in choice_logprobs(self._engine, prompts, [f" {label}" for label in LABELS]):
            weights = torch.tensor(row).softmax(-1).tolist()
            found.append(sum(weight * value for weight, value in zip(weights, LABELS.values())))
        return found


VALUES = (
    "Can these numbers make 24 with + - * and /?\n"
    "10 14: sure\n11 12: impossible\n4 4 10: likely\n4 9 11: sure\n5 7 8: likely\n24: sure\n1 3 3: impossible\n"
    "3 8: sure\n10 10 11: impossible\n4 6: sure\n2 2: impossible\n"
)


def is_right(start: Numbers, text: str) -> bool:
    """Whether a text's lines are three legal steps, the last of which leaves 24."""
    left = start
    for line in text.strip().splitlines()[:3]:
        after = dict(moves(left)).get(line.strip())
        if after is None:
            return False
        left = after
    return left == (TARGET,)


# --- the arms: each tells whether it solved a puzzle ------------------------------------------------------------------


def sampling(asker: Asker, start: Numbers, calls: int) -> bool:
    return any(is_right(start, text) for text in asker.solutions(calls))


def chains(asker: Asker, start: Numbers, calls: int) -> bool:
    """Chains side by side: each takes a step among the legal ones until one number is left."""
    states = [State(start)] * (calls // 3)
    for _ in range(3):
        states = [after for state, many in _grouped(states) for after in asker.steps(state, many)]
    return any(map(is_goal, states))


def _grouped(states: Sequence[State]) -> Iterator[tuple[State, int]]:
    for state in dict.fromkeys(states):
        yield state, states.count(state)


def tree(asker: Asker, start: Numbers, calls: int, *, order: Order, value: str) -> bool:
    evaluate = {"": None, "exact": exactly, "own": asker.values}[value]

    def propose(state: State) -> list[State]:
        many = min(AT_ONCE, calls - asker.budget.spent.calls)
        if many < 1:
            raise SpentError("no calls are left")
        return asker.steps(state, many)

    while asker.budget.spent.calls < calls:
        steps = search(
            State(start),
            propose=propose,
            goal=is_goal,
            evaluate=evaluate,
            order=order,
            key=lambda state: state.left,
            budget=asker.budget,
        )
        if finished(steps).found:
            return True
    return False


Arm = Callable[[Asker, Numbers, int], bool]
ARMS: dict[str, Arm] = {
    "sampling": sampling,
    "chains": chains,
    "tree": partial(tree, order=DepthFirst(), value=""),
    "tree, values": partial(tree, order=BestFirst(), value="own"),
    "tree, exact": partial(tree, order=DepthFirst(prune=1.0), value="exact"),
}
BASELINE, MAIN = "sampling", "tree, exact"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="a model reference")
    parser.add_argument("--calls", type=int, default=30, help="of the model, for each puzzle")
    parser.add_argument("--limit", type=int, default=LAST - FIRST + 1, help="puzzles, at most 100")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="all where not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=cache_dir() / "benchmarks" / "game24")
    options = parser.parse_args()
    if not PUZZLES.exists():
        print(f"{PUZZLES} is absent", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    with PUZZLES.open(encoding="utf-8", newline="") as file:
        ranked = {int(row["Rank"]): row["Puzzles"] for row in csv.DictReader(file)}

    def numbers(puzzle: str) -> Numbers:
        return tuple(sorted(map(Fraction, puzzle.split())))

    shots = RULES + "\n\n"
    for rank in SHOTS:
        left = numbers(ranked[rank])
        shots += "\n".join([f"Numbers: {shown(left)}", *solution(left)]) + "\n\n"
    puzzles = [ranked[rank] for rank in range(FIRST, LAST + 1)][: options.limit]
    named = f"{options.model.replace('/', '--')}-{options.calls}-{options.seed}"

    # What is compared is always run.
    arms = {name: solve for name, solve in ARMS.items() if name in {*options.arms, BASELINE, MAIN}}
    rows: dict[str, list[Row]] = {}
    with Engine(options.model) as engine:
        for arm, solve in arms.items():
            for who, asked in (("model", engine), ("chance", None)):
                if asked is None and arm == BASELINE:
                    continue

                def run(puzzle: str, solve: Arm = solve, asked: Engine | None = asked) -> Row:
                    budget = Budget(calls=options.calls)
                    asker = Asker(asked, shots, numbers(puzzle), budget, options.seed)
                    try:
                        solved = solve(asker, numbers(puzzle), options.calls)
                    except SpentError:
                        solved = False
                    return {"solved": solved, "calls": budget.spent.calls, "tokens": asker.tokens}

                name = f"{arm}: {who}"
                path = options.work / f"{named}-{name.replace(', ', '-').replace(': ', '-')}.jsonl"
                rows[name] = each(path, puzzles, run)
                console().print(f"{name}: {told(rows[name])}", highlight=False)
    every = finished_all([numbers(puzzle) for puzzle in puzzles])
    ours, peer = rows[f"{MAIN}: model"], rows[f"{BASELINE}: model"]
    gap, ends = over(ours, peer)
    result = {
        "name": "game24",
        "ours": rate(ours),
        "peer": rate(peer),
        "ratio": round(rate(ours) / rate(peer), 2) if rate(peer) else None,
        "unit": f"puzzles solved of {len(puzzles)}, at most {options.calls} calls each",
        "bar": "tree search with the exact checker above sampling at equal calls, by the paired 95% interval",
        "holds": ends[0] > 0,
        "notes": {
            "arms": {name: told(found) for name, found in rows.items()} | {"enumerator, no model": every},
            "tree_over_sampling": [gap, *ends],
            "model_over_chance": {
                arm: [value, *interval]
                for arm in arms
                if arm != BASELINE
                for value, interval in [over(rows[f"{arm}: model"], rows[f"{arm}: chance"])]
            },
            "model": options.model,
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


def finished_all(starts: Sequence[Numbers]) -> str:
    """The same search where every legal step is proposed: what it comes to without a model."""
    solved = [
        finished(
            search(
                State(start),
                propose=all_steps,
                goal=is_goal,
                order=DepthFirst(),
                key=lambda s: s.left,
                expansions=10**6,
            )
        ).found
        for start in starts
    ]
    return f"{sum(solved)} of {len(solved)}"


def rate(rows: Sequence[Row]) -> float:
    return sum(bool(row["solved"]) for row in rows) / len(rows)


def over(mine: Sequence[Row], theirs: Sequence[Row]) -> tuple[float, tuple[float, float]]:
    gaps = [float(a["solved"]) - float(b["solved"]) for a, b in zip(mine, theirs, strict=True)]
    low, high = bootstrap(gaps)
    return round(sum(gaps) / len(gaps), 4), (round(low, 4), round(high, 4))


def told(rows: Sequence[dict[str, Any]]) -> str:
    right = sum(bool(row["solved"]) for row in rows)
    low, high = wilson(right, len(rows))
    calls, tokens = (sum(row[name] for row in rows) / len(rows) for name in ("calls", "tokens"))
    return f"{right} of {len(rows)} (95%: {low:.3f} to {high:.3f}), {calls:.1f} calls and {tokens:.0f} tokens each"


if __name__ == "__main__":
    sys.exit(main())
