"""Debate: several models answer, read each other's answers and revise; a judge or the majority decides.

Du et al. 2023, arXiv:2305.14325, section 2. Of debaters that are the same model the first answers must differ, so it
has to sample.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Message
from modelworks.agents.planning.budget import Budget, Budgeted, Spent, SpentError
from modelworks.agents.planning.chain import Chain, Extract, last_line, majority, think
from modelworks.agents.planning.form import fill, form


@dataclass(frozen=True, slots=True)
class Said:
    """What a debater answered in a round; both count from 0, and round 0 is before any has read another's answer."""

    debater: int
    round: int
    chain: Chain


@dataclass(frozen=True, slots=True)
class Decided:
    """The end of a debate."""

    answer: Hashable | None
    spent: Spent
    """By all, the judge included."""
    complete: bool
    """False where the budget ended it before its rounds were over; what was said last decided."""


def debate(
    models: Sequence[ChatModel],
    messages: Sequence[Message],
    *,
    rounds: int = 2,
    judge: ChatModel | None = None,
    extract: Extract = last_line,
    max_tokens: int = 512,
    budget: Budget | None = None,
    halt: Halt | None = None,
) -> Iterator[Said | Decided]:
    """Have models debate a question such as `chain.asked` makes; `rounds` counts the first answers as one.

    Yields what is said, round by round in the order of the debaters, then what is decided: by `judge`, which chooses
    among the last answers, or else by the majority of them. A debater who comes to no answer in a round, such as one
    that is cut, stands by the one before. Raises ValueError for fewer than two debaters or no round, and what
    `ChatModel.reply` raises, but for a budget that ends.
    """
    if len(models) < 2 or rounds < 1:
        raise ValueError(f"{len(models)} debaters and {rounds} rounds: expected at least 2 and 1")
    budget = Budget() if budget is None else budget
    debaters = [Budgeted(model, budget) for model in models]
    dialogues: list[list[Message]] = [list(messages) for _ in debaters]
    last: list[Chain] = []
    complete = True
    with ThreadPoolExecutor(len(debaters)) as threads:
        for number in range(rounds):
            futures = [
                threads.submit(think, model, list(dialogue), extract=extract, max_tokens=max_tokens, halt=halt)
                for model, dialogue in zip(debaters, dialogues)
            ]
            said = []
            for at, future in enumerate(futures):
                error = future.exception()
                if error is None:
                    said.append(future.result())
                    yield Said(at, number, said[-1])
                elif isinstance(error, SpentError):
                    complete = False
                else:
                    raise error
            if not complete:
                last = last or said
                break
            last = [old if new.answer is None else new for old, new in zip(last or said, said)]
            for at, dialogue in enumerate(dialogues):
                others = [chain.text for other, chain in enumerate(said) if other != at]
                dialogue += [{"role": "assistant", "content": said[at].text}, _shown(others, messages)]
    answer: Hashable | None
    try:
        answer = (
            _judged(Budgeted(judge, budget), messages, last, halt) if judge else majority(each.answer for each in last)
        )
    except SpentError:
        complete, answer = False, majority(each.answer for each in last)
    yield Decided(answer, budget.spent, complete)


def _shown(others: Sequence[str], messages: Sequence[Message]) -> Message:
    answers = "\n\n".join(f"Answer {at} of others:\n{text.strip()}" for at, text in enumerate(others, 1))
    content = (
        f"{answers}\n\nCompare these with your own answer, look for mistakes in all of them, and answer the question "
        f"again:\n{messages[-1]['content']}"
    )
    return {"role": "user", "content": content}


def _judged(
    judge: ChatModel, messages: Sequence[Message], chains: Sequence[Chain], halt: Halt | None
) -> Hashable | None:
    """The answer that a judge chooses by its number; it is not asked where there are fewer than two."""
    by_answer = {chain.answer: chain for chain in chains if chain.answer is not None}
    if len(by_answer) < 2:
        return next(iter(by_answer), None)
    answers = list(by_answer)
    numbers = [str(at) for at in range(1, len(answers) + 1)]
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"number": {"enum": numbers}},
        "required": ["number"],
        "additionalProperties": False,
    }
    shown = "\n\n".join(f"Answer {number}:\n{by_answer[each].text.strip()}" for number, each in zip(numbers, answers))
    question = f"{messages[-1]['content']}\n\n{shown}\n\nWhich of these answers is right?"
    asked = form("choose", "Choose the answer that is right.", parameters)
    chosen = fill(
        judge, [*messages[:-1], {"role": "user", "content": question}], asked, lambda found: found["number"], halt=halt
    )
    return answers[numbers.index(chosen)]
