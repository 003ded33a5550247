"""Saving a model as a folder in the Hugging Face layout, which transformers and vLLM load as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modelworks.core.errors import ModelFileError
from modelworks.core.lineage import Lineage
from modelworks.core.paths import atomic_folder
from modelworks.models.base import Pretrained
from modelworks.models.folder import CONFIG, GENERATION, INDEX, WEIGHTS
from modelworks.models.load import outline
from modelworks.models.registry import Family, architecture_of

_MAX_SHARD_BYTES = 5_000_000_000


def save(
    model: Pretrained, folder: str | Path, *, lineage: Lineage | None = None, max_shard_bytes: int = _MAX_SHARD_BYTES
) -> Path:
    """Write weights (in their dtype), config, tokenizer, generation defaults and lineage; return the folder.

    All or nothing: an existing folder is replaced once the new one is whole and on disk. A tied head is stored once,
    as the embedding. Weights are split into files of at most `max_shard_bytes`, a larger tensor alone in one.
    Without a `lineage`, the record names the model's source as its parent. Raises ModelFileError for a module that is
    of no registered family or not plain (see `adapt.lora.bake`), and where the disk refuses.
    """
    target = Path(folder)
    architecture, family = architecture_of(model)
    _check_plain(model, family)
    config = {**model.config.to_hf(), "architectures": [architecture]}
    # transformers 5 reads `dtype`, older readers `torch_dtype`.
    config["dtype"] = config["torch_dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        for stored, part in family.stored(name, tensor):
            is_transposed = re.search(family.transposed, family.bare(stored)) is not None
            weights[stored] = part.T if is_transposed else part
    if lineage is None:
        lineage = Lineage(parents=(str(model.source),) if model.source is not None else ())
    try:
        with atomic_folder(target) as scratch:
            _write_json(scratch / CONFIG, config)
            _write_weights(scratch, weights, max_shard_bytes)
            if model.generation_defaults:
                _write_json(scratch / GENERATION, dict(model.generation_defaults))
            if model.tokenizer is not None:
                model.tokenizer.save(scratch)
            lineage.write(scratch)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelFileError(f"{target}: cannot be written: {reason}") from error
    return target


def _check_plain(model: Pretrained, family: Family) -> None:
    """Raise ModelFileError for a model with adapters on it or packed matrices: a folder has no place for them."""
    found = {name for name, _ in model.named_parameters()}
    wanted = {name for name, _ in outline(family, model.config).named_parameters()}
    for what, names in (("has no", wanted - found), ("has a", found - wanted)):
        if names:
            raise ModelFileError(
                f"the {type(model).__name__} {what} {min(names)}, so it is not what a folder holds: take its adapters "
                "off, or merge them, and unpack what is packed, with `lora.bake`"
            )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(folder: Path, weights: Mapping[str, Tensor], max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in weights.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in shard.items()}
        save_file(contiguous, folder / file, metadata={"format": "pt"})  # without it transformers refuses the file
        index |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in weights.values())
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})
