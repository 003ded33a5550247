"""Runs that learn from comparisons: `dpo` and its kin from pairs, `kto` from ratings, `reward` a reward model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

from torch import nn

from modelworks.adapt import lora
from modelworks.adapt.lora import LoraConfig
from modelworks.core.errors import ConfigError
from modelworks.core.log import warn_once
from modelworks.data.pairs import ComparisonRows, Comparisons, comparison_batch, read_pairs, read_rated
from modelworks.data.stream import Stream
from modelworks.data.tokenize import Options
from modelworks.models.base import LanguageModel
from modelworks.models.reward import RewardModel
from modelworks.objectives.base import Objective
from modelworks.objectives.preference import KTO, WITHOUT_REFERENCE, PairLoss, Preference
from modelworks.objectives.reward import BradleyTerry
from modelworks.parallel.ranks import rank, world_size
from modelworks.train.adapters import load_frozen
from modelworks.train.language import ModelRecipe
from modelworks.train.loop import measure
from modelworks.train.reference import reference_logps
from modelworks.train.run import Job, RunRecipe


@dataclass(frozen=True, kw_only=True)
class ComparisonData:
    """Which comparisons are learned, and on which the model is measured."""

    train: tuple[str, ...] = ()
    "Files, or folders of files."
    held_out: tuple[str, ...] = ()
    held_out_batches: int = 64
    "At most so many of its batches."
    max_length: int = 1024
    "Tokens of a prompt with one completion; what is longer is left out."
    batch_size: int = 8
    "Comparisons of a micro-batch, on each rank."
    epochs: int | None = 1
    columns: dict[str, str] = field(default_factory=dict)
    'What the data calls things: {"question" = "prompt"}.'
    as_chat: bool = False
    "Texts are turns of a user and an assistant."
    skip_broken: bool = False
    "Pass over rows of files that are broken, instead of ending at the first."
    strict: bool = False
    "End at the first comparison that would be left out, instead of counting them."
    layout: Literal["packed", "padded"] = "packed"
    "Comparisons of a micro-batch side by side in one row, or one under the other (for devices that want it so)."

    def __post_init__(self) -> None:
        for name in ("held_out_batches", "max_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ComparisonRecipe(RunRecipe):
    """What the three kinds have in common."""

    kind: Literal["dpo", "kto", "reward"]
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: ComparisonData = field(default_factory=ComparisonData)
    lora: LoraConfig | None = None
    "Train an adapter, and not all weights."
    base: Literal["plain", "nf4", "stored"] = "plain"
    "Of a model under an adapter: matrices as they are, rounded to NF4, or in the blocks of its .gguf file."
    cache: str | None = None
    "The folder of what references said; modelworks' own where not given."

    def objective(self) -> Objective:
        raise NotImplementedError

    @property
    def has_reference(self) -> bool:
        return True

    def prepare(self) -> Job:
        model = self._build()
        if self.data.max_length > model.context_length:
            context = model.context_length
            raise ConfigError(f"data.max_length is {self.data.max_length}; the model's context has {context}")
        if not self.data.train:
            raise ConfigError('data.train: missing; name files of comparisons, such as train = ["pairs.jsonl"]')
        train = self._read(self.data.train, model)
        held_out = self._read(self.data.held_out, model) if self.data.held_out else None
        trained = self._trained(model)
        objective = self.objective()
        stream = self._stream(train, self.seed, self.data.epochs)
        batches = stream.batches()
        return Job(
            model=trained,
            batches=stream,
            objective=objective,
            steps=None if batches is None else math.ceil(batches / self.accumulate),
            evaluate=None if held_out is None else partial(self._evaluate, objective, held_out),
            seq_len=self.data.max_length,
            data=dict.fromkeys(self.data.train, train.digest),
            parents=() if self.model.ref is None else (self.model.ref,),
            bakes=self.kind == "reward",
        )

    def _build(self) -> LanguageModel:
        if self.lora is None:
            if self.base != "plain":
                raise ConfigError(f"base is {self.base}, so its weights cannot be trained: state a [lora], too")
            return self.model.build()
        if self.model.ref is None:
            raise ConfigError("model.ref: missing; an adapter is trained on a model that there is")
        return load_frozen(self.model.ref, self.precision, self.base)

    def _trained(self, model: LanguageModel) -> LanguageModel | RewardModel:
        """The model as it is trained; what the reference says is computed by then."""
        if self.lora is not None:
            lora.apply(model, self.lora)
        return model

    def _read(self, paths: tuple[str, ...], model: LanguageModel) -> Comparisons:
        if model.tokenizer is None:
            raise ConfigError(f"model.ref: {self.model.ref} has no tokenizer")
        data = self.data
        options = Options(
            max_length=data.max_length, columns=data.columns, as_chat=data.as_chat, skip_broken=data.skip_broken
        )
        read = read_rated if self.kind == "kto" else read_pairs
        found, report = read(paths, model.tokenizer, options, strict=data.strict)
        for reason, count in report.dropped.items():
            warn_once(f"{', '.join(paths)}: {count} of {report.rows} left out: {reason}")
        if report.broken:
            warn_once(f"{', '.join(paths)}: {len(report.broken)} rows are broken, the first: {report.broken[0].reason}")
        if not self.has_reference:
            return found
        said = reference_logps(model, found, precision=self.precision, folder=self.cache)
        return found.with_column("reference", said)

    def _stream(self, comparisons: Comparisons, seed: int | None, epochs: int | None) -> Stream:
        is_packed = self.data.layout == "packed"
        return Stream(
            ComparisonRows(comparisons, seed, bucket=0 if is_packed else self.data.batch_size),
            batch_size=self.data.batch_size,
            epochs=epochs,
            rank=rank(),
            world=world_size(),
            collate=partial(comparison_batch, packed=is_packed, whole=self.kind == "reward"),
        )

    def _evaluate(self, objective: Objective, held_out: Comparisons, model: nn.Module) -> Mapping[str, Any]:
        batches = islice(self._stream(held_out, None, 1), self.data.held_out_batches)
        return measure(model, batches, objective, precision=self.precision)


@dataclass(frozen=True, kw_only=True)
class PreferenceRecipe(ComparisonRecipe):
    """`dpo`: a policy from pairs, by one of the losses of `objectives.preference`, which says what the numbers mean."""

    kind: Literal["dpo"]
    loss: PairLoss = "dpo"
    beta: float = 0.1
    smoothing: float = 0.0
    average: bool = True
    gamma: float = 0.5
    sft: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective()

    def objective(self) -> Preference:
        return Preference(self.loss, self.beta, self.smoothing, self.average, self.gamma, self.sft)

    @property
    def has_reference(self) -> bool:
        return self.loss not in WITHOUT_REFERENCE


@dataclass(frozen=True, kw_only=True)
class KTORecipe(ComparisonRecipe):
    """`kto`: a policy from completions that are good or bad."""

    kind: Literal["kto"]
    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective()

    def objective(self) -> KTO:
        return KTO(self.beta, self.desirable, self.undesirable)


@dataclass(frozen=True, kw_only=True)
class RewardRecipe(ComparisonRecipe):
    """`reward`: a reward model from pairs. What is left at the end is whole: adapters, too, are merged."""

    kind: Literal["reward"]
    centre: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective()

    def objective(self) -> BradleyTerry:
        return BradleyTerry(self.centre)

    @property
    def has_reference(self) -> bool:
        return False

    def _trained(self, model: LanguageModel) -> RewardModel:
        scored = RewardModel.from_language_model(model)
        if self.lora is not None:
            lora.apply(scored, self.lora)
            scored.score.requires_grad_(True)
        return scored
