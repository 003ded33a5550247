"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685): read from disk, held against a model, and applied to it.

An adapter adds `scale * B A` to matrices of a model that stays as it is. Two kinds are read: a folder in PEFT's layout
(`adapter_config.json` beside `adapter_model.safetensors`) and a GGUF file of llama.cpp's converter (`general.type` is
"adapter"). What would change a model in another way is refused by name, and so is all that is damaged or does not fit.

Shapes: a matrix has R rows and C columns, its addition the rank r: a_rC and b_Rr.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.core.gguf import GGUFFile
from modelworks.core.paths import read_json
from modelworks.models.base import LanguageModel
from modelworks.models.config import check_flags, check_sizes
from modelworks.models.gguf import architecture
from modelworks.models.registry import architecture_of

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_PEFT_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_GGUF_NAME = re.compile(r"(.+\.weight)\.lora_([ab])")

# What a config.json of PEFT's may hold without changing what an adapter computes: training, provenance, layout.
_WITHOUT_EFFECT = frozenset(
    "auto_mapping base_model_name_or_path revision inference_mode task_type peft_version fan_in_fan_out lora_dropout "
    "megatron_core loftq_config eva_config corda_config lora_ga_config qalora_group_size layers_pattern".split()
)
_READ = frozenset(
    "peft_type r lora_alpha use_rslora target_modules exclude_modules layers_to_transform rank_pattern alpha_pattern "
    "bias init_lora_weights".split()
)
# Initialisations that leave the model's own weights alone; others (PiSSA, OLoRA, LoftQ) train beside changed ones.
_PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to one matrix: scale * b_Rr a_rC."""

    a_rC: Floats
    b_Rr: Floats
    scale: float


@dataclass(frozen=True, eq=False)
class Adapter:
    """What an adapter adds, by the bare names of a model's matrices ("layers.0.self_attn.q_proj")."""

    source: Path
    additions: Mapping[str, LowRank]

    def matrices(self) -> dict[str, tuple[Floats, Floats]]:
        """For each matrix a_rC and b_Rr, which here holds the scale: y += b (a x)."""
        return {name: (each.a_rC, each.b_Rr * np.float32(each.scale)) for name, each in self.additions.items()}

    @cached_property
    def digest(self) -> bytes:
        """A 256-bit hash of what the adapter computes: equal for equal weights, wherever they were read from."""
        found = blake2b(digest_size=32)
        for name, (a_rC, b_Rr) in sorted(self.matrices().items()):
            found.update(f"{name} {a_rC.shape} {b_Rr.shape} ".encode())
            found.update(np.ascontiguousarray(a_rC).data)
            found.update(np.ascontiguousarray(b_Rr).data)
        return found.digest()


class Applied(TorchFunctionMode):
    """Within it, on this thread alone, a torch model computes with an adapter; the module is not touched.

    It stands between a module and `linear`, and adds to the product with each matrix that the adapter names. Enter it
    as often as wanted. Raises ValueError for a name that the model has not.
    """

    def __init__(self, model: LanguageModel, matrices: Mapping[str, tuple[Floats, Floats]]) -> None:
        super().__init__()
        places = {place.bare: place.weight for place in places_of(model)}
        if unknown := sorted(set(matrices) - set(places)):
            raise ValueError(f"the model has no matrix {unknown[0]} that an adapter could add to")
        # The weights are kept with their additions, so that an id stays one's own.
        self._added: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for name, (a_rC, b_Rr) in matrices.items():
            weight = places[name]
            a, b = (torch.from_numpy(np.ascontiguousarray(half)).to(weight.device) for half in (a_rC, b_Rr))
            self._added[id(weight)] = weight, a, b

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is not F.linear:
            return result
        x, weight = (*args, *(kwargs[name] for name in ("input", "weight") if name in kwargs))[:2]
        if (found := self._added.get(id(weight))) is None:
            return result
        _, a, b = found
        return result + F.linear(F.linear(x.float(), a), b).to(result.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A matrix that an adapter may add to: its names, bare (see `registry.Family`) and Hugging Face's, and itself."""

    bare: str
    name: str
    weight: Tensor


def places_of(model: LanguageModel) -> list[Place]:
    """The matrices of a model's layers; neither its embedding nor its head. Raises ModelFileError for other modules."""
    _, family = architecture_of(model)
    head = model.output_embedding()
    found = []
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight is not head:
            name = family.hf_name(f"{module_name}.weight").removesuffix(".weight")
            found.append(Place(family.bare(f"{name}.weight").removesuffix(".weight"), name, module.weight))
    return found


def read(path: str | Path, model: LanguageModel) -> Adapter:
    """An adapter of that model from a PEFT folder or a GGUF file. The model may be on torch's meta device.

    Raises ModelFileError, with the file and the tensor, for what is missing, cut short, not finite, of wrong shapes or
    of an unsupported kind: DoRA, biases, modules_to_save, other methods than LoRA, an adapted embedding or head.
    """
    source = Path(path).expanduser()
    try:
        if source.is_dir():
            return Adapter(source, _assemble(_peft(source, model), model))
        if source.is_file():
            return Adapter(source, _assemble(_gguf(source, model), model))
    except ConfigError as error:
        raise ModelFileError(f"{source / CONFIG}: {error}") from error
    except OSError as error:
        raise ModelFileError(f"{source}: {error.strerror or error}") from error
    raise ModelFileError(f"{source}: no such file or folder; an adapter is a folder with {CONFIG}, or a .gguf file")


# --- what the two kinds have in common --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensors:
    """The tensors of an adapter's file, by their names there."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    locate: Callable[[str], tuple[str, str] | None]
    """A tensor's matrix, bare, and its half, "a" or "b"; None for a tensor that is neither."""
    other: Callable[[str], str]
    """What the other half of a tensor is called."""
    values: Callable[[str], Floats]
    rank: Callable[[str], int | None]
    """The rank that is stated for a matrix."""
    scale: Callable[[str, int], float]
    """A matrix's scale, given its rank."""
    wanted: frozenset[str] | None
    """The matrices that are stated to be adapted; None where nothing is."""


def _assemble(tensors: _Tensors, model: LanguageModel) -> dict[str, LowRank]:
    """Pair the halves and check all that can be wrong with them."""
    path = tensors.path
    if not tensors.shapes:
        raise ModelFileError(f"{path}: it is empty: there are no tensors in it")
    shapes = {place.bare: tuple(place.weight.shape) for place in places_of(model)}
    halves: dict[str, dict[str, str]] = {}
    for name in sorted(tensors.shapes):
        located = tensors.locate(name)
        if located is None:
            raise ModelFileError(f"{path}: tensor {name} is no half of a LoRA matrix; nothing else is supported")
        bare, half = located
        if bare not in shapes:
            raise ModelFileError(
                f"{path}: tensor {name} has no place: the model has no matrix {bare} in its layers "
                "(an adapted embedding or head is not supported)"
            )
        if half in halves.setdefault(bare, {}):
            raise ModelFileError(f"{path}: {name} and {halves[bare][half]} are the same half of {bare}")
        if tensors.wanted is not None and bare not in tensors.wanted:
            raise ModelFileError(f"{path}: tensor {name} is there, but {CONFIG} does not name {bare} as adapted")
        halves[bare][half] = name
    for names in halves.values():
        if len(names) == 1:
            (only,) = names.values()
            raise ModelFileError(f"{path}: tensor {tensors.other(only)} is missing, the other half of {only}")
    if absent := sorted((tensors.wanted or frozenset()) - set(halves)):
        raise ModelFileError(f"{path}: {CONFIG} names {absent[0]} as adapted, but there are no tensors for it")
    return {bare: _pair(tensors, bare, names, shapes[bare]) for bare, names in halves.items()}


def _pair(tensors: _Tensors, bare: str, names: Mapping[str, str], shape: tuple[int, ...]) -> LowRank:
    rows, cols = shape
    rank = tensors.rank(bare) or tensors.shapes[names["a"]][0]
    for half, fitting in (("a", (rank, cols)), ("b", (rows, rank))):
        if (found := tensors.shapes[names[half]]) != fitting:
            raise ModelFileError(
                f"{tensors.path}: tensor {names[half]} is {found}, expected {fitting}: "
                f"the rank is {rank}, and the model's {bare} is {rows} x {cols}"
            )
    a_rC, b_Rr = (tensors.values(names[half]) for half in "ab")
    for half, values in (("a", a_rC), ("b", b_Rr)):
        if not np.isfinite(values).all():
            raise ModelFileError(f"{tensors.path}: tensor {names[half]} holds values that are not finite")
    scale = tensors.scale(bare, rank)
    if not float(np.abs(b_Rr).max()) * abs(scale) <= float(np.finfo(np.float32).max):
        raise ModelFileError(f"{tensors.path}: tensor {names['b']} times its scale, {scale}, is not finite")
    return LowRank(a_rC, b_Rr, scale)


# --- a folder in PEFT's layout ----------------------------------------------------------------------------------------


def _peft(folder: Path, model: LanguageModel) -> _Tensors:
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
        match = _PEFT_NAME.fullmatch(name)
        return match and (family.bare(f"{match[1]}.weight").removesuffix(".weight"), match[2].lower())

    names = {place.bare: place.name for place in places_of(model)}

    def scale(bare: str, rank: int) -> float:
        alpha = _by_pattern(config.get("alpha_pattern") or {}, names[bare], config.get("lora_alpha", 8))
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

    return _Tensors(
        path,
        shapes,
        locate,
        other=lambda name: name.replace(
            *((".lora_A.", ".lora_B.") if ".lora_A." in name else (".lora_B.", ".lora_A."))
        ),
        values=values,
        rank=lambda bare: int(_by_pattern(config.get("rank_pattern") or {}, names[bare], config.get("r", 8))),
        scale=scale,
        wanted=_targets(config, names),
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
    check_flags({"use_rslora": False, **config}, ["use_rslora"])
    _check_alpha("lora_alpha", config.get("lora_alpha", 8))
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, Mapping):
            raise ConfigError(f"{name} must be an object, got {pattern!r:.60}")
        for key, value in pattern.items():
            _compiled(name, key)
            if name == "rank_pattern":
                check_sizes({f"{name}[{key!r}]": value}, [f"{name}[{key!r}]"])
            else:
                _check_alpha(f"{name}[{key!r}]", value)


def _check_alpha(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a number, got {value!r:.60}")


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{name}: {pattern!r:.60} is no regular expression: {error}") from error


def _by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of the first pattern that matches a module's name, or the end of it from a dot on."""
    return next((value for key, value in patterns.items() if re.match(rf"(?:.*\.)?(?:{key})$", name)), default)


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


# --- a GGUF file ------------------------------------------------------------------------------------------------------


def _gguf(path: Path, model: LanguageModel) -> _Tensors:
    """llama.cpp's own names and rules (src/llama-adapter.cpp, convert_lora_to_gguf.py)."""
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
        match = _GGUF_NAME.fullmatch(name)
        bare = match and names.bare(match[1])
        return (bare.removesuffix(".weight"), match[2]) if match and bare else None

    def values(name: str) -> Floats:
        values = file.dequantize(name)
        if name.endswith(".lora_a"):
            return values
        heads, kv_heads = (config.get(key, 0) for key in ("num_attention_heads", "num_key_value_heads"))
        order = names.row_order(name.removesuffix(".lora_b"), len(values), heads, kv_heads)
        return values if order is None else values[order]

    return _Tensors(
        path,
        {name: tensor.shape for name, tensor in file.tensors.items()},
        locate,
        other=lambda name: name[:-1] + ("b" if name.endswith("a") else "a"),
        values=values,
        rank=lambda bare: None,
        scale=lambda bare, rank: alpha / rank if alpha else 1.0,
        wanted=None,
    )
