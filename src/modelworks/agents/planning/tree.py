"""Search over states that a model proposes: tree of thoughts (Yao et al. 2023, arXiv:2305.10601).

    for step in search(root, propose=..., evaluate=..., goal=..., order=BreadthFirst(5), depth=3, budget=budget):
        ...                      # Expanded, Expanded, ..., and an Outcome as the last
    outcome = finished(search(root, ...))   # only how it ends

A state is any hashable value. What proposes and evaluates is a function: a model (`propose.by_model`, `value`), code,
or chance, which makes it plain what of a result is the model's and what is the search's.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, Literal, TypeAlias, TypeVar

from modelworks.agents.halt import Halt
from modelworks.agents.model import Halted
from modelworks.agents.planning.budget import Budget, SpentError

State = TypeVar("State", bound=Hashable)
Propose: TypeAlias = Callable[[State], Iterable[State]]
"""The states that may follow one. It is read lazily: a goal among the first spares the rest."""
Evaluate: TypeAlias = Callable[[Sequence[State]], Sequence[float]]
"""How promising states are, all at once since a model computes them together; higher is better."""
Why: TypeAlias = Literal["found", "exhausted", "spent", "expansions", "halted"]


@dataclass(frozen=True, slots=True)
class BreadthFirst:
    """Level by level, of each the `width` most promising states (algorithm 1 there); None keeps all."""

    width: int | None = 5

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"a beam of {self.width} states is none")


@dataclass(frozen=True, slots=True)
class DepthFirst:
    """The most promising child first, back from where there is none; none valued below `prune` (algorithm 2 there)."""

    prune: float = -math.inf


@dataclass(frozen=True, slots=True)
class BestFirst:
    """Always the most promising state of all that are known, none valued below `prune`."""

    prune: float = -math.inf


Order: TypeAlias = BreadthFirst | DepthFirst | BestFirst


@dataclass(frozen=True, slots=True)
class Expanded(Generic[State]):
    """A state was asked for what may follow it."""

    state: State
    depth: int
    """Steps from the root."""
    proposed: int
    fresh: int
    """How many of the proposed were new, or are reached sooner than before."""
    calls: int
    """Of the model, since the budget began."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[State]):
    """The end of a search."""

    why: Why
    path: tuple[State, ...]
    """From the root to the goal; where there is none, to the most promising state, of several the deepest."""
    found: bool
    expanded: int
    states: int
    """Distinct states that were seen."""

    @property
    def state(self) -> State:
        return self.path[-1]


Step: TypeAlias = Expanded[State] | Outcome[State]


def search(
    root: State,
    *,
    propose: Propose[State],
    goal: Callable[[State], bool],
    evaluate: Evaluate[State] | None = None,
    order: Order = BreadthFirst(),
    depth: int = 3,
    key: Callable[[State], Hashable] = lambda state: state,
    expansions: int = 1000,
    budget: Budget | None = None,
    halt: Halt | None = None,
) -> Iterator[Step[State]]:
    """Search for a goal at most `depth` steps from the root; yields what happens, the `Outcome` as the last.

    States with the same `key` are one, looked at again only where it is reached in fewer steps, and valued once.
    Without `evaluate` all are worth the same. It ends with at most `expansions` states expanded, or where `propose` or
    `evaluate` raise `SpentError`, as a `Budgeted` model does; `budget` is what the calls are read from. With nothing
    pruned and no limit met, a goal is found wherever there is one. Raises ValueError for a value that is no number, and
    what the functions raise.
    """
    tree = _Tree(root, propose, goal, evaluate, depth, key, expansions, budget, halt)
    match order:
        case BreadthFirst(width):
            steps = _by_level(tree, width)
        case DepthFirst(prune):
            steps = _one_by_one(tree, prune, lambda value, batch: (-batch, -value))
        case BestFirst(prune):
            steps = _one_by_one(tree, prune, lambda value, batch: (-value, 0.0))
    why: Why = "exhausted"
    try:
        if tree.goal is None:
            yield from steps
    except _LimitError as limit:
        why = limit.why
    except SpentError:
        why = "spent"
    except Halted:
        why = "halted"
    yield tree.outcome("found" if tree.goal is not None else why)


def finished(steps: Iterable[Step[State]]) -> Outcome[State]:
    """The outcome that a search comes to."""
    *_, last = steps
    assert isinstance(last, Outcome)
    return last


class _LimitError(Exception):
    def __init__(self, why: Why) -> None:
        self.why = why


@dataclass(slots=True)
class _Node(Generic[State]):
    state: State
    parent: _Node[State] | None
    depth: int
    value: float | None = None


@dataclass
class _Tree(Generic[State]):
    """All states that were seen, and the functions that make more of them."""

    root: State
    propose: Propose[State]
    is_goal: Callable[[State], bool]
    evaluate: Evaluate[State] | None
    limit: int
    key: Callable[[State], Hashable]
    expansions: int
    budget: Budget | None
    halt: Halt | None

    def __post_init__(self) -> None:
        self.start = _Node(self.root, None, 0)
        self.nodes = {self.key(self.root): self.start}
        self.goal = self.start if self.is_goal(self.root) else None
        self.expanded = 0

    def expand(self, node: _Node[State]) -> tuple[Expanded[State], list[_Node[State]]]:
        """Ask what may follow a state, up to a goal, and keep what is new."""
        if self.halt is not None and self.halt.is_set():
            raise _LimitError("halted")
        if self.expanded >= self.expansions:
            raise _LimitError("expansions")
        self.expanded += 1
        depth, proposed = node.depth + 1, 0
        fresh: dict[Hashable, _Node[State]] = {}
        for state in self.propose(node.state):
            proposed += 1
            key = self.key(state)
            known = self.nodes.get(key)
            if known is None:
                known = self.nodes[key] = _Node(state, node, depth)
                if self.is_goal(state):
                    self.goal = known
            elif depth < known.depth:
                # It may have been given up for want of steps. A parent always is above its child, so no path is a loop.
                known.parent, known.depth = node, depth
            else:
                continue
            fresh[key] = known
            if self.goal is not None:
                break
        calls = self.budget.spent.calls if self.budget else 0
        return Expanded(node.state, node.depth, proposed, len(fresh), calls), list(fresh.values())

    def valued(self, nodes: Sequence[_Node[State]]) -> list[float]:
        """The values of nodes, each asked for once."""
        new = [node for node in nodes if node.value is None]
        if new and self.evaluate is not None:
            values = self.evaluate([node.state for node in new])
        else:
            values = [0.0] * len(new)
        for node, value in zip(new, values, strict=True):
            if math.isnan(value):
                raise ValueError(f"the value of {node.state!r} is no number")
            node.value = value
        return [node.value for node in nodes if node.value is not None]

    def outcome(self, why: Why) -> Outcome[State]:
        def promise(node: _Node[State]) -> tuple[float, int]:
            return (-math.inf if node.value is None else node.value, node.depth)

        at: _Node[State] | None = self.goal or max(self.nodes.values(), key=promise)
        path = []
        while at is not None:
            path.append(at.state)
            at = at.parent
        return Outcome(why, tuple(reversed(path)), self.goal is not None, self.expanded, len(self.nodes))


def _by_level(tree: _Tree[State], width: int | None) -> Iterator[Expanded[State]]:
    level = [tree.start]
    for _ in range(tree.limit):
        found: list[_Node[State]] = []
        for node in level:
            expanded, fresh = tree.expand(node)
            yield expanded
            if tree.goal is not None:
                return
            found += fresh
        if not found:
            return
        values = tree.valued(found)
        order = sorted(range(len(found)), key=lambda at: -values[at])  # of equals the first proposed
        level = [found[at] for at in order[:width]]


def _one_by_one(
    tree: _Tree[State], prune: float, priority: Callable[[float, int], tuple[float, float]]
) -> Iterator[Expanded[State]]:
    """The node of least `priority(value, batch)` first; a batch is what one expansion found."""
    ticks = count()
    heap = [((0.0, 0.0), next(ticks), 0, tree.start)]
    while heap:
        _, _, depth, node = heapq.heappop(heap)
        if node.depth < depth or depth == tree.limit:  # reached sooner, and looked at, since; or no step is left
            continue
        expanded, fresh = tree.expand(node)
        yield expanded
        if tree.goal is not None:
            return
        for child, value in zip(fresh, tree.valued(fresh)):
            if value >= prune:
                heapq.heappush(heap, (priority(value, tree.expanded), next(ticks), child.depth, child))
