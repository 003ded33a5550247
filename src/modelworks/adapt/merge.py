"""A model with adapters merged into it, from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modelworks.adapt import lora, qlora
from modelworks.adapt.read import read
from modelworks.core.errors import ConfigError
from modelworks.models.base import LanguageModel
from modelworks.models.fetch import pull
from modelworks.models.load import load


def merged(ref: str | Path, adapters: Sequence[str | Path], *, dtype: torch.dtype) -> LanguageModel:
    """The model of a reference with the sum of the adapters merged into it, in `dtype`.

    An adapter that was trained here on weights rounded to NF4 is merged onto these, not onto the ones that were
    rounded (peft#2321); in the result all matrices of the layers are those. Raises what `load` and `read` raise, and
    ConfigError where some adapters were trained so and others were not.
    """
    path = pull(ref)
    skeleton = load(path, kind=LanguageModel, device="meta")
    found = [read(each, skeleton) for each in adapters]
    rounded = {adapter.base == qlora.NF4 for adapter in found}
    if len(rounded) > 1:
        said = ", ".join(f"{each.source} ({each.base or 'as they are'})" for each in found)
        raise ConfigError(
            f"the adapters were trained on unlike weights, so there is no one model to merge them to: {said}"
        )
    model = load(path, kind=LanguageModel, dtype=dtype, pack=qlora.to_nf4 if True in rounded else None)
    for number, adapter in enumerate(found):
        lora.attach(model, adapter, str(number))
    lora.activate(model, *lora.names_of(model))
    lora.bake(model)
    return model
