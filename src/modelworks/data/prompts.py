"""Prompts that a model is to answer, read from rows of any format that has one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import DataError
from modelworks.data.sample import Completion, Dialogue, Pair, Prompt, Sample, Stepwise, Turns
from modelworks.data.shuffle import permuted
from modelworks.data.tokenize import Options, Report, find_files, read_samples
from modelworks.text.chat import ChatError, render
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import native_notation, told_in_text

TOO_LONG: Final = "longer than max_length"
EMPTY: Final = "a prompt without tokens"


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as it is read and as it is said, and what else its row says.

    Where the row has a completion of its own, that is `extra["completion"]`: the reference of a reward that checks.
    """

    ids: NDArray[np.int64]
    prompt: Turns
    extra: dict[str, Any] = field(default_factory=dict)


class Prompts:
    """Questions in memory, and their random order in each epoch; `seed` None is the order of the data."""

    def __init__(self, questions: Sequence[Question], *, pad_id: int = 0, seed: int | None = 0) -> None:
        if not questions:
            raise ValueError("there are no prompts")
        self._questions, self.pad_id, self.seed = list(questions), pad_id, seed
        digest = hashlib.sha256()
        for question in self._questions:
            digest.update(f"{len(question.ids)} ".encode() + np.ascontiguousarray(question.ids).tobytes())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> Question:
        return self._questions[index]

    def order(self, start: int, count: int) -> list[int]:
        """The numbers of `count` questions from place `start` on in the endless row of all epochs."""
        size, found = len(self), []
        for place in range(start, start + count):
            epoch, at = divmod(place, size)
            found.append(at if self.seed is None else int(permuted(np.array([at]), size, self.seed, epoch)[0]))
        return found


def read_prompts(
    paths: str | Path | Iterable[str | Path],
    tokenizer: Tokenizer,
    options: Options,
    *,
    seed: int | None = 0,
    strict: bool = False,
) -> tuple[Prompts, Report]:
    """The prompts of files: bare ones, those of completions, pairs and steps, and dialogues up to their last answer.

    `options.max_length` is for the prompt alone. Raises DataError for damaged files, rows that are broken or have no
    prompt (unless `options.skip_broken`), where nothing is left, and with `strict` for the first that is left out.
    """
    files, report = find_files(paths), Report()
    questions: list[Question] = []
    for sample in read_samples(files, options, report.broken):
        report.rows += 1
        question = _question(tokenizer, sample)
        why = EMPTY if not len(question.ids) else None
        if options.max_length is not None and len(question.ids) > options.max_length:
            why = TOO_LONG
        if why is None:
            questions.append(question)
            report.tokens += len(question.ids)
        elif strict:
            raise DataError(f"{sample.place}: {why}")
        else:
            report.dropped[why] += 1
    report.documents = len(questions)
    if not questions:
        why = "; ".join(f"{count}: {reason}" for reason, count in report.dropped.items()) or "it holds no rows"
        raise DataError(f"{files[0]}: there are no prompts ({why})")
    pad_id = tokenizer.pad_id if tokenizer.pad_id is not None else 0
    return Prompts(questions, pad_id=pad_id, seed=seed), report


def _question(tokenizer: Tokenizer, sample: Sample) -> Question:
    extra, tools = dict(sample.extra), getattr(sample, "tools", ())
    prompt: Turns
    match sample:
        case Prompt() | Stepwise():
            prompt = sample.prompt
        case Completion():
            prompt, extra["completion"] = sample.prompt, sample.completion
        case Pair():
            prompt, extra["completion"] = sample.prompt, sample.chosen
        case Dialogue():
            said = [at for at, message in enumerate(sample.messages) if message["role"] == "assistant"]
            if not said or said[-1] == 0:
                raise DataError(f"{sample.place}: a dialogue without an answer, or without what it answers")
            prompt, extra["completion"] = sample.messages[: said[-1]], sample.messages[said[-1] :]
        case _:
            raise DataError(f"{sample.place}: a {type(sample).__name__.lower()} has no prompt")
    return Question(np.array(prompt_ids(tokenizer, prompt, tools, sample.place), np.int64), prompt, extra)


def prompt_ids(tokenizer: Tokenizer, prompt: Turns, tools: Sequence[Any] = (), place: str = "prompt") -> list[int]:
    """A prompt's ids as the engine reads it: a text with BOS where there is one, turns by the chat template."""
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    messages: Sequence[Any] = prompt
    if native_notation(tokenizer) is None:
        messages, tools = told_in_text(messages, [tool["function"] for tool in tools]), ()
    try:
        return render(tokenizer, messages, tools=tools or None, add_generation_prompt=True).ids
    except ChatError as error:
        raise DataError(f"{place}: {error}") from error
