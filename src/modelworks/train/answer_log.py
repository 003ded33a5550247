"""What a run that samples was answered, and what it got for it: `answers.jsonl` in its folder, a line an answer.

A line has `step` (optimiser steps that were taken before it was sampled), `prompt`, `answer`, `reward`, `length` in
tokens and `cut`, with `gold` and `kl` where there are such. A run that goes on from a checkpoint first cuts off what
was sampled after it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelworks.train.rollout import Generation

ANSWERS = "answers.jsonl"


class AnswerLog:
    """Writes a run's answers as they are sampled; used as a context."""

    def __init__(self, folder: Path, *, steps_done: int = 0) -> None:
        path = folder / ANSWERS
        kept = _lines_before(path, steps_done) if steps_done and path.exists() else []
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(f"{line}\n" for line in kept)
        self._file.flush()

    def add(self, generation: Generation) -> None:
        """Write down all answers of a generation batch."""
        for at, answer in enumerate(generation.answers):
            line: dict[str, Any] = {
                "step": generation.step,
                "prompt": generation.prompts[at],
                "answer": answer,
                "reward": generation.rewards[at],
                "length": generation.lengths[at],
                "cut": generation.cut[at],
            }
            for name, values in (("gold", generation.gold), ("kl", generation.kls)):
                if values is not None:
                    line[name] = values[at] if math.isfinite(values[at]) else None
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def _lines_before(path: Path, step: int) -> list[str]:
    """The whole lines of what was sampled before a step was taken."""
    # Not splitlines: what a model says may have line separators (U+2028, U+0085), which JSON leaves as they are.
    whole = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
    return [line for line in whole.split("\n") if line and json.loads(line)["step"] < step]
