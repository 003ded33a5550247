"""Adapters in PEFT's layout: `adapter_config.json` beside `adapter_model.safetensors`, read and written.

Shapes: a matrix has R rows and C columns, its addition the rank r.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from modelworks.adapt.adapter import Floats, Tensors
from modelworks.adapt.lora import DEFAULT, LowRank, parts_of
from modelworks.adapt.packed import PackedLinear
from modelworks.adapt.targets import by_pattern, compiled, places_of
from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.core.lineage import Lineage
from modelworks.core.paths import atomic_folder, read_json
from modelworks.models.base import Pretrained
from modelworks.models.config import check_flags, check_sizes
from modelworks.models.registry import architecture_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_BASE = "base_weights"  # in the lineage's recipe: what the base was rounded to in training
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_NAME = re.compile(r"base_model\.model\.(.+)\.(?:lora_([AB])\.weight|lora_(m)agnitude_vector(?:\.weight)?)")
_SUFFIXES = {"a": "lora_A.weight", "b": "lora_B.weight", "m": "lora_magnitude_vector"}

# What a config.json of PEFT's may hold without changing what an adapter computes: training, provenance, layout.
_WITHOUT_EFFECT = frozenset(
    "auto_mapping base_model_name_or_path revision inference_mode task_type peft_version fan_in_fan_out lora_dropout "
    "megatron_core loftq_config eva_config corda_config lora_ga_config qalora_group_size layers_pattern".split()
)
_READ = frozenset(
    "peft_type r lora_alpha use_rslora use_dora target_modules exclude_modules layers_to_transform rank_pattern "
    "alpha_pattern bias init_lora_weights".split()
)
# Initialisations that leave the model's own weights alone; others (PiSSA, OLoRA, LoftQ) train beside changed ones.
_PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")


# --- reading ----------------------------------------------------------------------------------------------------------


def tensors(folder: Path, model: nn.Module) -> Tensors:
    """What is in a folder, for `adapter.assemble`. Raises ConfigError and ModelFileError as `read.read` says."""
    if not (folder / CONFIG).exists():
        raise ModelFileError(f"{folder}: it has no {CONFIG}, so it is no adapter")
    config = read_json(folder / CONFIG)
    _check(config)
    path = folder / WEIGHTS
    if not path.exists():
        others = [each.name for each in sorted(folder.iterdir()) if each.suffix in (".bin", ".pt", ".pth")]
        hint = f"; {others[0]} is of a kind that is not read, as it can run code" if others else ""
        raise ModelFileError(f"{path}: it is missing{hint}")
    try:
        file = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ModelFileError(f"{path}: damaged or cut short ({error}); fetch it again") from error

    def values(name: str) -> Floats:
        tensor = file.get_tensor(name)
        if tensor.dtype not in _FLOATS:
            raise ModelFileError(f"{path}: tensor {name} is {tensor.dtype}; weights of that kind are not supported")
        return cast(Floats, tensor.float().numpy())

    _, family = architecture_of(model)

    def locate(name: str) -> tuple[str, str] | None:
        if (match := _NAME.fullmatch(name)) is None:
            return None
        return family.bare(f"{match[1]}.weight").removesuffix(".weight"), (match[2] or match[3]).lower()

    lineage = Lineage.read(folder)
    names = {place.bare: place.name for place in places_of(model)}
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    return Tensors(
        path,
        shapes,
        locate,
        other=lambda name, part: f"{name.rpartition('.lora_')[0]}.{_SUFFIXES[part]}",
        values=values,
        rank=lambda bare: by_pattern(ranks, names[bare], config.get("r", 8)),
        alpha=lambda bare, rank: by_pattern(alphas, names[bare], config.get("lora_alpha", 8)),
        wanted=_targets(config, names),
        base=None if lineage is None else lineage.recipe.get(_BASE),
        rslora=config.get("use_rslora", False),
        dora=config.get("use_dora", False),
    )


def _check(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a config that is wrong, or asks for what is not supported."""
    if (kind := config.get("peft_type")) != "LORA":
        raise ConfigError(f"peft_type {kind!r} is not supported; supported is LORA")
    if config.get("bias", "none") != "none":
        raise ConfigError(f"bias={config['bias']!r} is not supported: the adapter would change the model's biases")
    if config.get("init_lora_weights") not in _PLAIN_INITIALISATIONS:
        raise ConfigError(
            f"init_lora_weights={config['init_lora_weights']!r} is not supported: it trains beside changed weights of "
            "the model; save it with path_initial_model_for_weight_conversion"
        )
    for name, value in config.items():
        # Unknown ones too: what they would change must not be missing without a word.
        if value and name not in _READ | _WITHOUT_EFFECT:
            raise ConfigError(f"{name}={value!r:.60} is not supported")
    check_sizes({"r": 8, **config}, ["r"])
    check_flags({"use_rslora": False, "use_dora": False, **config}, ["use_rslora", "use_dora"])
    _check_alpha("lora_alpha", config.get("lora_alpha", 8))
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, Mapping):
            raise ConfigError(f"{name} must be an object, got {pattern!r:.60}")
        for key, value in pattern.items():
            compiled(name, key)
            if name == "rank_pattern":
                check_sizes({f"{name}[{key!r}]": value}, [f"{name}[{key!r}]"])
            else:
                _check_alpha(f"{name}[{key!r}]", value)


def _check_alpha(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a number, got {value!r:.60}")


def _targets(config: Mapping[str, Any], names: Mapping[str, str]) -> frozenset[str] | None:
    """Which matrices the config says are adapted, bare; `names` are Hugging Face's, by bare ones.

    None where it names none, or by a regular expression: that was written for the names that modules had in training,
    in a larger model perhaps, and what it meant is in the tensors.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules") or []
    if targets == "all-linear":
        targets = list(names.values())
    if isinstance(targets, str) or targets is None or isinstance(excluded, str):
        return None
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    for name, listed, kind in (
        ("target_modules", targets, str), ("exclude_modules", excluded, str), ("layers_to_transform", layers or [], int)
    ):  # fmt: skip
        if not isinstance(listed, list) or not all(isinstance(each, kind) for each in listed):
            raise ConfigError(f"{name} must be a list of {kind.__name__}, got {listed!r:.60}")
    found = {bare for bare, name in names.items() if _is_named(name, targets) and not _is_named(name, excluded)}
    if layers is not None:
        found = {bare for bare in found if (number := re.search(r"\.(\d+)\.", bare)) and int(number[1]) in layers}
    if not found:
        raise ConfigError(f"target_modules={sorted(targets)!r:.60} names no matrix of the model's layers")
    return frozenset(found)


def _is_named(name: str, ends: Iterable[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


# --- writing ----------------------------------------------------------------------------------------------------------


def save(model: Pretrained, folder: str | Path, name: str = DEFAULT, *, lineage: Lineage | None = None) -> Path:
    """Write one of a model's adapters, all or nothing, so that PEFT and `read.read` load it; return the folder.

    The config is made from the parts themselves: ranks and alphas that differ from the most frequent ones are listed
    by the modules' whole names. PiSSA's is written as a LoRA of twice the rank, which needs no changed base. What the
    base's weights were rounded to is noted in the lineage, for `merge`. Without a `lineage`, the record names the
    model's source as its parent. Raises ConfigError for an adapter that is not there, ModelFileError where the disk
    refuses.
    """
    target = Path(folder)
    parts = parts_of(model, name)
    places = places_of(model)
    names = {place.path: place.name for place in places}
    weights: dict[str, torch.Tensor] = {}
    for path, part in parts.items():
        a_rC, b_Rr = part.halves()
        for key, value in (("a", a_rC), ("b", b_Rr), ("m", part.m_R)):
            if value is not None:
                weights[f"base_model.model.{names[path]}.{_SUFFIXES[key]}"] = value.detach().cpu().contiguous()
    kinds = {place.linear.kind for place in places if place.path in parts and isinstance(place.linear, PackedLinear)}
    config = _config(model, {names[path]: part for path, part in parts.items()}, [place.name for place in places])
    if lineage is None:
        lineage = Lineage(parents=(str(model.source),) if model.source is not None else ())
    if kinds:
        lineage = replace(lineage, recipe={**lineage.recipe, _BASE: ", ".join(sorted(kinds))})
    try:
        with atomic_folder(target) as scratch:
            text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
            (scratch / CONFIG).write_text(text + "\n", encoding="utf-8")
            save_file(weights, scratch / WEIGHTS, metadata={"format": "pt"})
            lineage.write(scratch)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelFileError(f"{target}: cannot be written: {reason}") from error
    return target


def _config(model: Pretrained, parts: Mapping[str, LowRank], names: Iterable[str]) -> dict[str, Any]:
    """An `adapter_config.json` for parts by their Hugging Face names, among all names of the model's matrices."""
    _, family = architecture_of(model)
    ranks, alphas = {}, {}
    for name, part in parts.items():
        ranks[name], alphas[name] = _as_lora(part)
    (r, _), (alpha, _) = (Counter(each.values()).most_common(1)[0] for each in (ranks, alphas))
    first = next(iter(parts.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if hasattr(model, "output_embedding") else "FEATURE_EXTRACTION",
        "base_model_name_or_path": None if model.source is None else str(model.source),
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": first.dropout,
        "use_rslora": first.rslora,
        "use_dora": first.m_R is not None,
        "target_modules": _ends(parts, names),
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != r},
        "alpha_pattern": {name: each for name, each in alphas.items() if each != alpha},
        "bias": "none",
        "fan_in_fan_out": re.search(family.transposed, family.bare(f"{next(iter(parts))}.weight")) is not None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _as_lora(part: LowRank) -> tuple[int, float]:
    """Rank and alpha as they are written: twice the rank with PiSSA, and an alpha that leaves the scale as it is."""
    rank = len(part.halves()[0])
    alpha = part.scale * (math.sqrt(rank) if part.rslora else rank) if part.start_a_rC is not None else part.alpha
    return rank, int(alpha) if float(alpha).is_integer() else alpha


def _ends(chosen: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The fewest name ends that are those of the chosen names and of no others: last parts, or else whole names."""
    names = list(names)
    last = sorted({name.rpartition(".")[2] for name in chosen})
    return last if {name for name in names if _is_named(name, last)} == set(chosen) else sorted(chosen)
