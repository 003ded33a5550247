"""Adapters as GGUF files of llama.cpp's converter (`general.type` is "adapter"), by its own names and rules.

The sources are src/llama-adapter.cpp and convert_lora_to_gguf.py of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from modelworks.adapt.adapter import Floats, Tensors
from modelworks.core.errors import ModelFileError
from modelworks.core.gguf import GGUFFile
from modelworks.models.base import Pretrained
from modelworks.models.gguf import architecture

_NAME = re.compile(r"(.+\.weight)\.lora_([ab])")


def tensors(path: Path, model: Pretrained) -> Tensors:
    """What is in a file, for `adapter.assemble`. Raises ModelFileError as `read.read` says."""
    file = GGUFFile(path)
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
        if (kind := file.metadata.get(key)) != expected:
            raise ModelFileError(f"{path}: {key} is {kind!r:.60}, expected {expected!r}: it is no LoRA adapter")
    if "adapter.alora.invocation_tokens" in file.metadata:
        raise ModelFileError(f"{path}: an adapter with invocation tokens (aLoRA) is not supported")
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelFileError(f"{path}: adapter.lora.alpha is {alpha!r:.60}, expected a number")
    names = architecture(file)
    config = model.config.to_hf()
    if names.model_type != {"mistral": "llama"}.get(config["model_type"], config["model_type"]):
        raise ModelFileError(f"{path}: an adapter for {file.architecture} does not fit a {config['model_type']} model")

    def locate(name: str) -> tuple[str, str] | None:
        match = _NAME.fullmatch(name)
        bare = match and names.bare(match[1])
        return (bare.removesuffix(".weight"), match[2]) if match and bare else None

    def values(name: str) -> Floats:
        values = file.dequantize(name)
        if name.endswith(".lora_a"):
            return values
        heads, kv_heads = (config.get(key, 0) for key in ("num_attention_heads", "num_key_value_heads"))
        order = names.row_order(name.removesuffix(".lora_b"), len(values), heads, kv_heads)
        return values if order is None else values[order]

    return Tensors(
        path,
        {name: tensor.shape for name, tensor in file.tensors.items()},
        locate,
        other=lambda name, part: name[:-1] + part,
        values=values,
        rank=lambda bare: None,
        alpha=lambda bare, rank: alpha or float(rank),
        wanted=None,
    )
