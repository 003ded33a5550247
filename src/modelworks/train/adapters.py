"""Runs of kind `lora` and `qlora`: adapters on a frozen language model, learned as `sft` learns a whole one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from modelworks.adapt import lora, qlora
from modelworks.adapt.lora import LoraConfig
from modelworks.core.errors import ConfigError
from modelworks.models.base import LanguageModel
from modelworks.models.load import load
from modelworks.parallel.ranks import world_size
from modelworks.train.language import LanguageRecipe


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe(LanguageRecipe):
    """As `sft`, of a model that `model.ref` names. Where `precision` is bf16, its frozen weights are in bfloat16.

    What is left at the end is the adapter, in PEFT's layout.
    """

    kind: Literal["lora", "qlora"]
    lora: LoraConfig = field(default_factory=LoraConfig)
    base: Literal["nf4", "stored"] = "nf4"
    "Of qlora: matrices rounded to NF4, or kept in the blocks of the model's .gguf file."

    def build(self) -> LanguageModel:
        if self.model.ref is None:
            raise ConfigError("model.ref: missing; an adapter is trained on a model that there is")
        if world_size() > 1:
            raise ConfigError(f"{self.kind} trains in one process; start it without torchrun")
        model = load(
            self.model.ref,
            kind=LanguageModel,
            dtype=torch.bfloat16 if self.precision == "bf16" else torch.float32,
            pack=None if self.kind == "lora" else {"nf4": qlora.to_nf4, "stored": qlora.as_stored}[self.base],
        )
        lora.apply(model, self.lora)
        return model
