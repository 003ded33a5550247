"""A team against one agent that may spend as many tokens: the comparison that says what the team is worth.

    cases = list(compare(model, examples, team, extract=final_number))
    print(Comparison(cases))            # both accuracies with intervals, their difference, and the tokens of both

For each question the team's tokens are counted, and the one agent answers by self-consistency over as many chains as
those tokens pay for. Without this, more calls alone look like teamwork.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Message
from modelworks.agents.planning.budget import Budget, Budgeted, Spent
from modelworks.agents.planning.chain import Extract, last_line, self_consistency
from modelworks.evals.intervals import bootstrap, wilson
from modelworks.evals.tasks import Example

Team: TypeAlias = Callable[[ChatModel, Sequence[Message]], Hashable | None]
"""Answers a question with as many calls of the model as it likes, all of them counted; None is no answer."""
_MOST_SAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class Case:
    """One question, answered by both."""

    team_right: bool
    alone_right: bool
    team: Spent
    alone: Spent
    """At most the team's tokens, and less than them by what does not pay for another chain."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one side comes to."""

    right: int
    asked: int
    spent: Spent

    @property
    def rate(self) -> float:
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95%."""
        return wilson(self.right, self.asked)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{100 * self.rate:.1f}% ({self.right} of {self.asked}; 95%: {100 * low:.1f} to {100 * high:.1f}), "
            f"{self.spent.tokens:,} tokens in {self.spent.calls:,} calls"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides over all questions. Raises ValueError without any."""

    cases: Sequence[Case]

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("there are no cases to compare")

    @property
    def team(self) -> Side:
        spent = sum((case.team for case in self.cases), Spent())
        return Side(sum(case.team_right for case in self.cases), len(self.cases), spent)

    @property
    def alone(self) -> Side:
        spent = sum((case.alone for case in self.cases), Spent())
        return Side(sum(case.alone_right for case in self.cases), len(self.cases), spent)

    @property
    def gain(self) -> tuple[float, tuple[float, float]]:
        """How much higher the team's rate is, with a 95% bootstrap of the pairs."""
        gaps = [float(case.team_right) - float(case.alone_right) for case in self.cases]
        return sum(gaps) / len(gaps), bootstrap(gaps)

    def __str__(self) -> str:
        gap, (low, high) = self.gain
        return (
            f"team: {self.team}\none agent: {self.alone}\n"
            f"team over one agent: {100 * gap:+.1f} points (95%: {100 * low:+.1f} to {100 * high:+.1f})"
        )


def compare(
    model: ChatModel,
    examples: Iterable[Example],
    team: Team,
    *,
    extract: Extract = last_line,
    max_tokens: int = 512,
    parallel: int = 4,
    halt: Halt | None = None,
) -> Iterator[Case]:
    """Ask each question of a team and of one agent at the same tokens; one case a question, as they come.

    An answer is right where it equals what `extract` finds in the example's reference. Raises ValueError for a
    reference in which it finds nothing, and what the team and `ChatModel.reply` raise.
    """
    for example in examples:
        reference = extract(example.reference)
        if reference is None:
            raise ValueError(f"no answer is found in the reference {example.reference!r}")
        spent = Budget()
        found = team(Budgeted(model, spent), example.messages)
        budget = Budget(tokens=spent.spent.tokens)
        alone = self_consistency(
            Budgeted(model, budget),
            example.messages,
            samples=_MOST_SAMPLES,
            extract=extract,
            max_tokens=max_tokens,
            parallel=parallel,
            halt=halt,
        )
        yield Case(found == reference, alone.answer == reference, spent.spent, budget.spent)
