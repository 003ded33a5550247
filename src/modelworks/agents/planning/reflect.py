"""Reflection: try, have the try checked, keep a lesson in words, and try again with it in sight.

Reflexion: Shinn et al. 2023 (arXiv:2303.11366), algorithm 1: actor, evaluator and self-reflection are `attempt`,
`check` and the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from modelworks.agents.halt import Halt
from modelworks.agents.model import ChatModel, Halted
from modelworks.agents.planning.budget import SpentError

_INSTRUCTION: Final = (
    "You tried a task and were told what was wrong. In one or two sentences, say what to do another way next time. "
    "Write the lesson alone."
)
_LESSON: Final = "Lesson from "
_TASK_KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says of a try."""

    passed: bool
    feedback: str = ""
    """What is wrong, in words from which a lesson can be drawn."""
    score: float = 0.0
    """How good it is among tries that do not pass; higher is better."""


@dataclass(frozen=True, slots=True)
class Attempt:
    text: str
    verdict: Verdict
    lesson: str | None = None
    """What the model made of it; None for one that passed, and for the last."""


class Lessons(Protocol):
    """Where lessons are kept: a list, or anything that lasts longer."""

    def append(self, lesson: str, /) -> object: ...

    def __iter__(self) -> Iterator[str]: ...


class Found(Protocol):
    @property
    def text(self) -> str: ...


class Facts(Protocol):
    """A memory of facts, such as `memory.semantic.Facts`."""

    def add(self, texts: Sequence[str], /) -> object: ...

    def search(self, query: str, limit: int, /) -> Sequence[Found]: ...


class LastingLessons:
    """Lessons kept in a memory of facts, where later tasks that are like this one find them."""

    def __init__(self, facts: Facts, task: str, *, limit: int = 3) -> None:
        self._facts, self._task, self._limit = facts, " ".join(task.split())[:_TASK_KEPT], limit

    def append(self, lesson: str) -> None:
        """Keep a lesson, with the task that it came of, since it is that by which it is found."""
        self._facts.add([f"{_LESSON}{self._task}: {lesson}"])

    def __iter__(self) -> Iterator[str]:
        """The lessons of the tasks most like this one, the likest last."""
        found = [fact.text for fact in self._facts.search(self._task, 4 * self._limit)]  # other facts are among them
        return reversed([text.removeprefix(_LESSON) for text in found if text.startswith(_LESSON)][: self._limit])


def reflect(
    task: str,
    attempt: Callable[[str], str],
    check: Callable[[str], Verdict],
    model: ChatModel,
    *,
    tries: int = 3,
    lessons: Lessons | None = None,
    shown: int = 3,
    max_tokens: int = 128,
    halt: Halt | None = None,
) -> Iterator[Attempt]:
    """Try a task until `check` passes, at most `tries` times; yields each try, the last one that passed if any did.

    `attempt` gets the task with the newest `shown` lessons written below (the paper keeps one to three); those that
    `lessons` holds from before are among them. It ends early at a halt, and where the model's budget is spent. Raises
    ValueError without tries, and what the functions and `ChatModel.reply` raise.
    """
    if tries < 1:
        raise ValueError(f"{tries} tries are none")
    kept: Lessons = [] if lessons is None else lessons
    for at in range(tries):
        if halt is not None and halt.is_set():
            return
        try:
            text = attempt(with_lessons(task, kept, shown))
        except (SpentError, Halted):
            return
        verdict = check(text)
        is_last = verdict.passed or at == tries - 1
        lesson = None
        if not is_last:
            try:
                lesson = _lesson(model, task, text, verdict, max_tokens, halt)
            except (SpentError, Halted):
                is_last = True
        if lesson:
            kept.append(lesson)
        yield Attempt(text, verdict, lesson)
        if is_last:
            return


def best(attempts: Iterable[Attempt]) -> Attempt | None:
    """The attempt that passed, else the one with the highest score, of several the first; None where there is none."""
    return max(attempts, key=lambda each: (each.verdict.passed, each.verdict.score), default=None)


def with_lessons(task: str, lessons: Lessons, shown: int = 3) -> str:
    """The task with its newest lessons written below."""
    every = list(lessons)
    newest = list(islice(every, max(0, len(every) - shown), None))
    if not newest:
        return task
    return "\n".join([task, "", "Lessons from earlier tries:", *(f"- {lesson}" for lesson in newest)])


def _lesson(model: ChatModel, task: str, text: str, verdict: Verdict, max_tokens: int, halt: Halt | None) -> str:
    said = f"Task: {task}\n\nYour try: {text}\n\nWhat was wrong: {verdict.feedback or 'it did not pass the check'}"
    messages = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": said}]
    return " ".join(model.reply(messages, max_tokens=max_tokens, halt=halt).text.split())
