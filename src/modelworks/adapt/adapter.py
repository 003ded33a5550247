"""What an adapter adds to a model's matrices, as plain arrays: what is read from disk, and what the engine serves.

Shapes: a matrix has R rows and C columns, its addition the rank r: a_rC and b_Rr.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelworks.adapt.targets import places_of
from modelworks.core.errors import ModelFileError
from modelworks.models.base import LanguageModel

Floats = NDArray[np.float32]


def scale_of(alpha: float, rank: int, *, rslora: bool) -> float:
    """What b a is multiplied with: alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732)."""
    return alpha / (math.sqrt(rank) if rslora else rank)


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """What is added to one matrix: scale * b_Rr a_rC; with DoRA, the rows of the sum then get the norms m_R."""

    a_rC: Floats
    b_Rr: Floats
    alpha: float
    rslora: bool = False
    m_R: Floats | None = None

    @property
    def scale(self) -> float:
        return scale_of(self.alpha, len(self.a_rC), rslora=self.rslora)


@dataclass(frozen=True, eq=False)
class Adapter:
    """What an adapter adds, by the bare names of a model's matrices ("layers.0.self_attn.q_proj")."""

    source: Path
    additions: Mapping[str, Addition]
    base: str | None = None
    """What the model's weights were rounded to when it was trained: "NF4", or None where that is not known."""

    def matrices(self) -> dict[str, tuple[Floats, Floats]]:
        """For each matrix a_rC and b_Rr, which here holds the scale: y += b (a x).

        Raises ModelFileError for a DoRA adapter, which is no such sum.
        """
        if any(each.m_R is not None for each in self.additions.values()):
            raise ModelFileError(
                f"{self.source}: a DoRA adapter rescales the model's own matrices, so it cannot be chosen request by "
                "request; make a model of it with `modelworks merge`"
            )
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
    as often as wanted. Raises ValueError for a name that the model has not. To train one, see `lora.apply`.
    """

    def __init__(self, model: LanguageModel, matrices: Mapping[str, tuple[Floats, Floats]]) -> None:
        super().__init__()
        places = {place.bare: place.linear for place in places_of(model)}
        if unknown := sorted(set(matrices) - set(places)):
            raise ValueError(f"the model has no matrix {unknown[0]} that an adapter could add to")
        # The weights are kept with their additions, so that an id stays one's own.
        self._added: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for name, (a_rC, b_Rr) in matrices.items():
            linear = places[name]
            if not isinstance(linear, nn.Linear):
                raise ValueError(f"{name} is packed ({linear.kind}); load the model as it is to answer with an adapter")
            weight = linear.weight
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


# --- what all files have in common ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensors:
    """The tensors of an adapter's file, by their names there."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    locate: Callable[[str], tuple[str, str] | None]
    """A tensor's matrix, bare, and its part, "a", "b" or DoRA's "m"; None for a tensor that is none of them."""
    other: Callable[[str, str], str]
    """What another part of a tensor's matrix is called."""
    values: Callable[[str], Floats]
    rank: Callable[[str], int | None]
    """The rank that is stated for a matrix."""
    alpha: Callable[[str, int], float]
    """A matrix's alpha, given its rank."""
    wanted: frozenset[str] | None
    """The matrices that are stated to be adapted; None where nothing is."""
    base: str | None = None
    rslora: bool = False
    dora: bool = False


def assemble(tensors: Tensors, model: nn.Module) -> dict[str, Addition]:
    """Pair the halves and check all that can be wrong with them, or raise ModelFileError."""
    path = tensors.path
    if not tensors.shapes:
        raise ModelFileError(f"{path}: it is empty: there are no tensors in it")
    shapes = {place.bare: place.shape for place in places_of(model)}
    parts = "abm" if tensors.dora else "ab"
    found: dict[str, dict[str, str]] = {}
    for name in sorted(tensors.shapes):
        located = tensors.locate(name)
        if located is None or located[1] not in parts:
            raise ModelFileError(f"{path}: tensor {name} is no half of a LoRA matrix; nothing else is supported")
        bare, part = located
        if bare not in shapes:
            raise ModelFileError(
                f"{path}: tensor {name} has no place: the model has no matrix {bare} in its layers "
                "(an adapted embedding or head is not supported)"
            )
        if part in found.setdefault(bare, {}):
            raise ModelFileError(f"{path}: {name} and {found[bare][part]} are the same half of {bare}")
        if tensors.wanted is not None and bare not in tensors.wanted:
            raise ModelFileError(f"{path}: tensor {name} is there, but its config does not name {bare} as adapted")
        found[bare][part] = name
    for names in found.values():
        if missing := [part for part in parts if part not in names]:
            only = next(iter(names.values()))
            raise ModelFileError(
                f"{path}: tensor {tensors.other(only, missing[0])} is missing, the other half of {only}"
            )
    if absent := sorted((tensors.wanted or frozenset()) - set(found)):
        raise ModelFileError(f"{path}: its config names {absent[0]} as adapted, but there are no tensors for it")
    return {bare: _addition(tensors, bare, names, shapes[bare]) for bare, names in found.items()}


def _addition(tensors: Tensors, bare: str, names: Mapping[str, str], shape: tuple[int, int]) -> Addition:
    rows, cols = shape
    rank = tensors.rank(bare) or tensors.shapes[names["a"]][0]
    fitting = {"a": (rank, cols), "b": (rows, rank), "m": (rows,)}
    for part, name in names.items():
        if (found := tensors.shapes[name]) != fitting[part]:
            raise ModelFileError(
                f"{tensors.path}: tensor {name} is {found}, expected {fitting[part]}: "
                f"the rank is {rank}, and the model's {bare} is {rows} x {cols}"
            )
    values = {part: tensors.values(name) for part, name in names.items()}
    for part, name in names.items():
        if not np.isfinite(values[part]).all():
            raise ModelFileError(f"{tensors.path}: tensor {name} holds values that are not finite")
    addition = Addition(values["a"], values["b"], tensors.alpha(bare, rank), tensors.rslora, values.get("m"))
    if not float(np.abs(addition.b_Rr).max()) * abs(addition.scale) <= float(np.finfo(np.float32).max):
        raise ModelFileError(f"{tensors.path}: tensor {names['b']} times its scale, {addition.scale}, is not finite")
    return addition
