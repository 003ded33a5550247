"""The file of a reader: what differs from the model that it was trained from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import torch
from torch import Tensor

from modelworks.models.bert import BertReader


def write(model: BertReader, base: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """The weights that differ from those of `base` with the same name, matrices in Q8_0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "modelworks-reader")
    for key, value in metadata.items():
        writer.add_string(f"modelworks.{key}", value)
    for name, weight in model.state_dict().items():
        if torch.equal(weight, base.get(name, torch.empty(0))):
            continue
        array = weight.numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
