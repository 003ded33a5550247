"""Frozen bases in few bits, for adapters to train on (QLoRA: Dettmers et al. 2023, arXiv:2305.14314).

    model = load("model.gguf", dtype=torch.bfloat16, pack=as_stored)    # blocks stay as they are in the file, mapped
    model = load("folder", dtype=torch.bfloat16, pack=to_nf4)           # each matrix rounded as it is read
    lora.apply(model, LoraConfig(rank=16))

Embedding, head, norms and biases are loaded in `dtype`, as ever. What is trained on rounded weights belongs to them:
`lora.bake` merges onto these, and rounding the sum again takes away much of what was learnt.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from modelworks.adapt.packed import PackedLinear, UnpackedLinear
from modelworks.adapt.targets import Place, places_of
from modelworks.core.errors import ModelFileError
from modelworks.core.log import warn_once
from modelworks.kernels.dequantize import quantize_nf4
from modelworks.models.base import Pretrained
from modelworks.models.gguf import GGUFModel
from modelworks.models.load import Checkpoint

NF4 = "NF4"
_UNPACKED = ("F64", "F32", "F16", "BF16")


def as_stored(model: Pretrained, checkpoint: Checkpoint, dtype: torch.dtype) -> set[str]:
    """Keep the matrices of the layers as they lie in a GGUF file, mapped; a `load.Pack`.

    What the file holds as floats is loaded as such. Raises ModelFileError for a checkpoint that is no GGUF file.
    """
    if not isinstance(checkpoint, GGUFModel):
        raise ModelFileError("its weights are not packed; only a .gguf file's can stay as they are")
    file = checkpoint.file

    def packed(place: Place, name: str) -> PackedLinear | None:
        kind = file.tensors[name].type.name
        if kind in _UNPACKED:
            return None
        order = checkpoint.row_order(name)
        blocks = file.blocks(name) if order is None else file.blocks(name)[order]
        return PackedLinear(kind, torch.from_numpy(blocks), *place.shape, bias_R=place.linear.bias, dtype=dtype)

    return _replace(model, checkpoint, packed)


def to_nf4(model: Pretrained, checkpoint: Checkpoint, dtype: torch.dtype) -> set[str]:
    """Round the matrices of the layers to NF4 with double quantisation as they are read, one at a time; a `load.Pack`.

    What they become does not depend on `dtype`.
    """

    def packed(place: Place, name: str) -> PackedLinear:
        w_RC = torch.empty(place.shape)
        checkpoint.read(f"{place.bare}.weight", w_RC)
        return nf4_linear(w_RC, place.linear.bias, dtype)

    return _replace(model, checkpoint, packed)


def _replace(
    model: Pretrained, checkpoint: Checkpoint, packed: Callable[[Place, str], PackedLinear | None]
) -> set[str]:
    """Put what `packed` makes of a place and the checkpoint's own name in the place; return whose it made, bare."""
    taken = set()
    for place in places_of(model):
        bare = f"{place.bare}.weight"
        name = checkpoint.names.get(bare)
        if name is None:
            continue  # `load` says what is missing
        if (found := checkpoint.shape(bare)) != place.shape:
            raise ModelFileError(f"tensor {name} is {found}, the config asks for {place.shape}")
        module = packed(place, name)
        if module is not None:
            model.set_submodule(place.path, module)
            taken.add(bare)
    return taken


def quantize(model: nn.Module) -> None:
    """Round the matrices of a model's layers to NF4, in place.

    Warns where an adapter was merged onto rounded weights: rounding these again takes away what it had learnt of them.
    """
    for place in places_of(model):
        if isinstance(place.linear, PackedLinear):
            continue
        if isinstance(place.linear, UnpackedLinear):
            warn_once(
                f"the model was trained on weights rounded to {place.linear.was} and is being rounded again, which "
                "loses part of what was learnt; keep the adapter apart, or keep the merged model as it is"
            )
        weight = place.linear.weight.detach()
        model.set_submodule(place.path, nf4_linear(weight, place.linear.bias, weight.dtype))


def nf4_linear(w_RC: Tensor, bias_R: nn.Parameter | None = None, dtype: torch.dtype = torch.float32) -> PackedLinear:
    """A frozen linear layer with its weights rounded to NF4, for a model of that dtype."""
    blocks, scales_G, offset = quantize_nf4(w_RC.float().cpu().numpy())
    return PackedLinear(
        NF4,
        torch.from_numpy(blocks).to(w_RC.device),
        *w_RC.shape,
        scales_G=np.asarray(scales_G),
        offset=offset,
        bias_R=bias_R,
        dtype=dtype,
    )
