"""Tasks with one right answer: ask a model all questions, compare, and say how sure the score is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.core.errors import ConfigError
from modelworks.core.log import progress
from modelworks.engine.engine import Engine
from modelworks.engine.many import answer_all
from modelworks.engine.sample import Sampling
from modelworks.evals.answers import is_same_number, without_calculations
from modelworks.evals.intervals import bootstrap, wilson

Messages = Sequence[Mapping[str, Any]]
IsRight = Callable[[str, str], bool]
"""Whether an answer agrees with the reference."""


@dataclass(frozen=True)
class Example:
    """A question as messages, and the right answer, worked out where the data has it so."""

    messages: Messages
    reference: str

    def solved(self) -> list[Mapping[str, Any]]:
        """The dialogue with the reference as its answer: a shot, or a row to fine-tune on."""
        return [*self.messages, {"role": "assistant", "content": self.reference}]


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str
    is_right: bool


@dataclass(frozen=True)
class Score:
    """Answers in the order of their examples."""

    answers: tuple[Answer, ...]

    @property
    def right(self) -> int:
        return sum(answer.is_right for answer in self.answers)

    @property
    def rate(self) -> float:
        return self.right / len(self.answers)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95%."""
        return wilson(self.right, len(self.answers))

    def minus(self, other: Score) -> tuple[float, tuple[float, float]]:
        """How much higher this rate is than another on the same examples, with a 95% bootstrap of the pairs.

        Raises ValueError for other numbers of examples.
        """
        pairs = zip(self.answers, other.answers, strict=True)
        gaps = [float(mine.is_right) - float(theirs.is_right) for mine, theirs in pairs]
        return sum(gaps) / len(gaps), bootstrap(gaps)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.rate:.1f}% ({self.right} of {len(self.answers)}; 95%: {100 * low:.1f} to {100 * high:.1f})"


def exact_match(
    engine: Engine,
    examples: Sequence[Example],
    *,
    is_right: IsRight = is_same_number,
    shots: Sequence[Example] = (),
    sampling: Sampling = Sampling(max_tokens=320),  # noqa: B008 - frozen
    quiet: bool = False,
) -> Score:
    """Ask every example, after the solved `shots`, and compare each answer with its reference.

    Raises ConfigError without examples, and what `Engine.submit` raises.
    """
    if not examples:
        raise ConfigError("there are no examples to ask")
    before = [message for shot in shots for message in shot.solved()]
    requests = (([*before, *example.messages], sampling) for example in examples)
    answers = []
    with progress("asking", len(examples), quiet=quiet) as advance:
        for example, piece in zip(examples, answer_all(engine, requests), strict=True):
            judged = is_right(piece.text, example.reference)
            answers.append(Answer(piece.text, str(piece.finish_reason), judged))
            advance(note=f"{sum(answer.is_right for answer in answers)} right")
    return Score(tuple(answers))


def gsm8k(path: str | Path, *, instruction: str = "") -> list[Example]:
    """GSM8K's JSONL of question and answer, its solutions in plain words; `instruction` is put after each question.

    Raises ConfigError for a file that is missing, or a line that is no such problem.
    """
    path, examples = Path(path), []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question, answer = str(row["question"]), str(row["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: expected an object with question and answer") from error
        content = f"{question}\n{instruction}" if instruction else question
        examples.append(Example([{"role": "user", "content": content}], without_calculations(answer)))
    return examples
