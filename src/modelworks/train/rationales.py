"""Teaching by answers: a teacher's own words become the data that a student is fine-tuned on.

With a check of the final answer this is chain-of-thought distillation: rationales are sampled, and those that come to
the right answer are kept (Zelikman et al. 2022, arXiv:2203.14465, without its hints; Hsieh et al. 2023,
arXiv:2305.02301). Without a check it is sequence-level distillation: the student learns the teacher's answers whole
(Kim and Rush 2016, arXiv:1606.07947), whatever the two tokenizers are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelworks.core.errors import ConfigError
from modelworks.core.log import progress
from modelworks.core.paths import atomic_file
from modelworks.engine.engine import Engine
from modelworks.engine.many import answer_all
from modelworks.engine.sample import Sampling
from modelworks.evals.tasks import Example, IsRight


@dataclass(frozen=True)
class Sampled:
    """What came of sampling a teacher."""

    asked: int
    answers: int
    finished: int
    """Answers that the teacher ended itself."""
    right: int
    kept: int
    solved: int
    """Questions with an answer that was kept."""


def sample_rationales(
    engine: Engine,
    examples: Sequence[Example],
    path: str | Path,
    *,
    is_right: IsRight | None,
    samples: int = 4,
    keep: int = 1,
    shots: Sequence[Example] = (),
    sampling: Sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=320, seed=0),  # noqa: B008 - frozen
    quiet: bool = False,
) -> Sampled:
    """Ask a teacher each question `samples` times; write at most `keep` different right answers of each as JSONL.

    A line is `{"messages": [...], "source": {"example": number, "sample": number}}`, the teacher's `shots` left out. An
    answer that was cut is never kept. With `is_right` None every finished answer is right. Each sample has a seed of
    its own, counted up from that of `sampling`, so a run can be repeated. The file is written whole or not at all.
    Raises ConfigError for numbers below 1, and what `Engine.submit` raises.
    """
    if samples < 1 or keep < 1:
        raise ConfigError(f"samples={samples} and keep={keep} must be at least 1")
    before = [message for shot in shots for message in shot.solved()]
    first = sampling.seed or 0

    def requests() -> Iterator[tuple[list[Mapping[str, Any]], Sampling]]:
        for number, example in enumerate(examples):
            for sample in range(samples):
                yield [*before, *example.messages], replace(sampling, seed=first + number * samples + sample)

    finished = right = kept = solved = 0
    answers = answer_all(engine, requests())
    with atomic_file(Path(path)) as file, progress("sampling", len(examples), quiet=quiet) as advance:
        for number, example in enumerate(examples):
            texts: list[str] = []
            for sample in range(samples):
                piece = next(answers)
                if piece.finish_reason != "stop":
                    continue
                finished += 1
                if is_right is not None and not is_right(piece.text, example.reference):
                    continue
                right += 1
                text = piece.text.strip()
                if not text or text in texts or len(texts) == keep:
                    continue
                texts.append(text)
                messages = [*example.messages, {"role": "assistant", "content": text}]
                row = {"messages": messages, "source": {"example": number, "sample": sample}}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            kept, solved = kept + len(texts), solved + bool(texts)
            advance(note=f"{kept} kept")
    return Sampled(len(examples), len(examples) * samples, finished, right, kept, solved)
