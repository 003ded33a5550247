"""A language model with a second head: what a policy learns with that also judges where it stands.

Shapes: B rows, T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modelworks.core.errors import ModelFileError
from modelworks.core.lineage import Lineage
from modelworks.core.paths import atomic_folder
from modelworks.models.base import LanguageModel
from modelworks.models.load import load
from modelworks.models.save import save

VALUE_HEAD = "value_head.safetensors"
_WEIGHT = "weight"


class ActorCritic(LanguageModel):
    """A language model, and a linear value of each last hidden state, which begins at 0.

    It is called as the language model is, and speaks as that does. A `readout` of its own gets the value head's matrix
    value_1C as a third argument, so that the critic is trained, sharded and checkpointed as a part of the model.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        super().__init__()
        self.language_model = language_model
        self.config, self.tokenizer, self.source = (
            language_model.config,
            language_model.tokenizer,
            language_model.source,
        )
        self.generation_defaults = language_model.generation_defaults
        head_VC = language_model.output_embedding()
        self.value = nn.Linear(head_VC.shape[1], 1, bias=False, device=head_VC.device)
        nn.init.zeros_(self.value.weight)

    @property
    def context_length(self) -> int:
        return self.language_model.context_length

    def output_embedding(self) -> Tensor:
        return self.language_model.output_embedding()

    def forward(self, input_ids_BT: Tensor, *, readout: Callable[..., Any] = nn.functional.linear, **more: Any) -> Any:
        if readout is nn.functional.linear:
            return self.language_model(input_ids_BT, **more)

        def with_value(x_BTC: Tensor, w_VC: Tensor) -> Any:
            return readout(x_BTC, w_VC, self.value.weight.to(x_BTC.dtype))

        return self.language_model(input_ids_BT, readout=with_value, **more)

    @torch.no_grad()
    def values(self, input_ids_BT: Tensor, *, attention_mask_BS: Tensor | None = None) -> Tensor:
        """The value of the state after each token, values_BT."""

        def readout(x_BTC: Tensor, w_VC: Tensor, value_1C: Tensor) -> Tensor:
            return (x_BTC @ value_1C.T)[..., 0].float()

        return self(input_ids_BT, attention_mask_BS=attention_mask_BS, readout=readout)


def save_with_critic(model: ActorCritic, folder: str | Path, *, lineage: Lineage | None = None) -> Path:
    """A folder as `save` writes it, which `load` reads as the language model alone, and in it the value head.

    All or nothing, as `save` is, and with its errors.
    """
    return with_value_head(model, folder, lambda inner: save(model.language_model, inner, lineage=lineage))


def with_value_head(model: ActorCritic, folder: str | Path, write: Callable[[Path], Path]) -> Path:
    """What `write` leaves in a folder (a model, an adapter) with the value head beside it, in its place at once."""
    target = Path(folder)
    try:
        with atomic_folder(target) as scratch:
            written = write(scratch / "written")
            save_file({_WEIGHT: model.value.weight.detach().cpu().contiguous()}, written / VALUE_HEAD)
            for file in written.iterdir():
                file.rename(scratch / file.name)
            written.rmdir()
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelFileError(f"{target}: cannot be written: {reason}") from error
    return target


def load_with_critic(ref: str | Path, **options: Any) -> ActorCritic:
    """A model by what `load` takes, with the value head that its folder holds; a new one, at 0, where it holds none.

    Raises what `load` raises, and ModelFileError for a value head that is damaged or of another model.
    """
    language_model = load(ref, kind=LanguageModel, **options)
    model = ActorCritic(language_model)
    source = language_model.source
    if source is not None and (source / VALUE_HEAD).exists():
        load_value_head(model, source)
    return model.eval()


def load_value_head(model: ActorCritic, folder: str | Path) -> None:
    """Take over the value head of a folder; raise ModelFileError where it is missing, damaged or of another width."""
    file = Path(folder) / VALUE_HEAD
    try:
        weight_1C = load_file(file)[_WEIGHT]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelFileError(f"{file}: no value head can be read from it: {error}") from error
    if weight_1C.shape != model.value.weight.shape:
        found, wanted = tuple(weight_1C.shape), tuple(model.value.weight.shape)
        raise ModelFileError(f"{file}: the value head is {found}, this model's is {wanted}")
    with torch.no_grad():
        model.value.weight.copy_(weight_1C)
