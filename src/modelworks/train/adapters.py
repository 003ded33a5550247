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
        model = load_frozen(self.model.ref, self.precision, "plain" if self.kind == "lora" else self.base)
        lora.apply(model, self.lora)
        return model


def load_frozen(ref: str, precision: Literal["fp32", "bf16"], base: Literal["plain", "nf4", "stored"]) -> LanguageModel:
    """A model that an adapter is trained on, in the precision of the run.

    Its matrices are as they are, rounded to NF4, or kept in the blocks of its .gguf file. Raises ConfigError under
    torchrun, where adapters are not trained, and what `load` raises.
    """
    if world_size() > 1:
        raise ConfigError("adapters train in one process; start it without torchrun")
    packs = {"plain": None, "nf4": qlora.to_nf4, "stored": qlora.as_stored}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return load(ref, kind=LanguageModel, dtype=dtype, pack=packs[base])
