"""Adapters that train: LoRA, rsLoRA and DoRA, put on a model's matrices, taken off again, and merged.

    LoRA    w + s b a with s = alpha / r           (Hu et al. 2021, arXiv:2106.09685, eq. 3)
    rsLoRA  the same with s = alpha / sqrt(r)      (Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2)
    DoRA    m (w + s b a) / |w + s b a| by rows,   (Liu et al. 2024, arXiv:2402.09353, eq. 5 and 11)
            no gradient through the norms

`apply` puts an `AdaptedLinear` in the place of each matrix chosen, around the module that was there, which is never
written to; `remove` puts that one back. Several adapters of one model have names, and those that are active add up,
each on the model's own matrices, so that their order does not matter.

Shapes: R rows of a matrix (outputs), C columns (inputs), r the adapter's rank.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelworks.adapt.adapter import Adapter, scale_of
from modelworks.adapt.packed import PackedLinear, UnpackedLinear
from modelworks.adapt.product import product
from modelworks.adapt.targets import (
    ALL_LINEAR,
    BASE,
    Place,
    by_pattern,
    checked_patterns,
    compiled,
    places_of,
    select,
)
from modelworks.core.errors import ConfigError
from modelworks.models.base import Pretrained
from modelworks.models.config import check_flags, check_numbers, check_sizes

DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What an adapter is. Patterns are regular expressions, matched as `targets.select` says.

    Raises ConfigError for values that are no adapter; patterns are held against the model by `apply`.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    """Of the input of a, in training."""
    targets: tuple[str, ...] = (ALL_LINEAR,)
    exclude: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Other ranks; the first pattern that matches counts."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    init: Literal["kaiming", "gaussian", "pissa"] = "kaiming"
    """Of a; b begins with zeros. PiSSA begins with the largest singular values of the matrix itself."""

    def __post_init__(self) -> None:
        check_sizes(vars(self), ["rank"])
        check_sizes(self.rank_pattern, self.rank_pattern)
        check_numbers(vars(self), ["alpha", "dropout"])
        check_numbers(self.alpha_pattern, self.alpha_pattern)
        check_flags(vars(self), ["rslora", "dora"])
        if self.dropout >= 1:
            raise ConfigError(f"dropout={self.dropout} drops everything; it must be less than 1")
        if self.init not in _INITIALISATIONS:
            raise ConfigError(f"unknown init {self.init!r}; there are {', '.join(_INITIALISATIONS)}")
        for name in ("targets", "exclude"):
            if isinstance(value := getattr(self, name), str):
                raise ConfigError(f"{name} must be a list of patterns, got {value!r:.60}")
        for name in ("targets", "exclude", "rank_pattern", "alpha_pattern"):
            for pattern in getattr(self, name):
                compiled(name, pattern)


class LowRank(nn.Module):
    """One adapter's part in one matrix, in float32: a_rC, b_Rr, and with DoRA the magnitudes m_R."""

    def __init__(
        self, a_rC: Tensor, b_Rr: Tensor, m_R: Tensor | None, *, alpha: float, rslora: bool, dropout: float
    ) -> None:
        super().__init__()
        self.a_rC, self.b_Rr = nn.Parameter(a_rC), nn.Parameter(b_Rr)
        self.m_R = None if m_R is None else nn.Parameter(m_R)
        self.alpha, self.rslora, self.dropout = alpha, rslora, dropout
        # PiSSA takes off what it begins with, so that the model's matrix itself stays as it is.
        self.register_buffer("start_a_rC", None)
        self.register_buffer("start_b_Rr", None)
        self.start_a_rC: Tensor | None
        self.start_b_Rr: Tensor | None

    @property
    def scale(self) -> float:
        return scale_of(self.alpha, len(self.a_rC), rslora=self.rslora)

    def halves(self) -> tuple[Tensor, Tensor]:
        """a and b as they are added: twice the rank with PiSSA."""
        if self.start_a_rC is None or self.start_b_Rr is None:
            return self.a_rC, self.b_Rr
        return torch.cat((self.a_rC, self.start_a_rC)), torch.cat((self.b_Rr, -self.start_b_Rr), dim=1)

    def dropped(self, x: Tensor) -> Tensor | None:
        """x after dropout; None where that is x itself."""
        return F.dropout(x, self.dropout) if self.training and self.dropout else None

    def moved(self, w_RC: Tensor) -> Tensor:
        """w + s b a, in w's dtype."""
        a_rC, b_Rr = (half.to(w_RC.dtype) for half in self.halves())
        return torch.addmm(w_RC, b_Rr, a_rC, alpha=self.scale)

    def gain(self, w_RC: Tensor) -> Tensor | None:
        """DoRA's m / |w + s b a| for each row, where only m has a gradient; None without DoRA."""
        if self.m_R is None:
            return None
        with torch.no_grad():
            norm_R = torch.linalg.vector_norm(self.moved(w_RC), dim=1)
        return self.m_R / norm_R

    def addition(self, w_RC: Tensor) -> Tensor:
        """What it adds to the model's matrix w_RC."""
        gain = self.gain(w_RC)
        return (self.moved(w_RC) if gain is None else gain[:, None] * self.moved(w_RC)) - w_RC

    def extra_repr(self) -> str:
        kind = "DoRA" if self.m_R is not None else "rsLoRA" if self.rslora else "LoRA"
        return f"{kind}, rank={len(self.a_rC)}, alpha={self.alpha:g}, dropout={self.dropout:g}"


class AdaptedLinear(nn.Module):
    """A linear layer, `base`, to which the active ones of its adapters add; the base is never written to."""

    def __init__(self, base: nn.Linear | PackedLinear) -> None:
        super().__init__()
        self.base: nn.Linear | PackedLinear = base
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.register_buffer("merged_RC", None, persistent=False)
        self.merged_RC: Tensor | None
        self.in_features, self.out_features = base.in_features, base.out_features

    @property
    def parts(self) -> list[LowRank]:
        """The active adapters' parts."""
        return [part for name in self.active if isinstance(part := self.adapters[name], LowRank)]

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The model's own w_RC."""
        return matrix_of(self.base, dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged_RC is not None:
            return F.linear(x, self.merged_RC, self.base.bias)
        parts = self.parts
        if not parts:
            return self.base(x)
        # Someone may thaw the base and train it beside the adapter; `product` has no gradient for it.
        thawed_RC = self.base.weight if isinstance(self.base, nn.Linear) and self.base.weight.requires_grad else None
        if len(parts) == 1 and parts[0].m_R is None and thawed_RC is None:
            (part,) = parts
            return product(x, self.matrix, self.base.bias, *part.halves(), part.scale, part.dropped(x))
        y = own = product(x, self.matrix) if thawed_RC is None else F.linear(x, thawed_RC)
        for part in parts:
            a_rC, b_Rr = (half.to(own.dtype) for half in part.halves())
            dropped = part.dropped(x)
            added = F.linear(F.linear((x if dropped is None else dropped).to(own.dtype), a_rC), b_Rr * part.scale)
            gain = None if part.m_R is None else part.gain(self.matrix(_wide(own.dtype)).detach())
            y = y + added if gain is None else y + (gain.to(own.dtype) * (own + added) - own)
        return y if self.base.bias is None else y + self.base.bias.to(y.dtype)

    @torch.no_grad()
    def sum(self) -> Tensor:
        """w_RC with all that is active added to it, each on w itself; made in float32 and rounded once, to w's dtype.

        A merge in turn would hold a DoRA adapter's norms against a matrix that another has changed (peft#3608).
        """
        dtype = self.base.weight.dtype if isinstance(self.base, nn.Linear) else self.base.dtype
        w_RC = self.matrix(_wide(dtype)).clone()
        sum_RC = w_RC.clone()
        for part in self.parts:
            sum_RC += part.addition(w_RC)
        return sum_RC.to(dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def matrix_of(linear: nn.Linear | PackedLinear, dtype: torch.dtype) -> Tensor:
    return linear.weight.to(dtype) if isinstance(linear, nn.Linear) else linear.matrix(dtype)


# --- on a model, and off again ----------------------------------------------------------------------------------------


@torch.no_grad()
def apply(model: Pretrained, config: LoraConfig, name: str = DEFAULT) -> list[nn.Parameter]:
    """Put a new adapter on a model and make it the active one; return its parameters, which alone require gradients.

    It computes nothing new at first: b is zero (with PiSSA, what it begins with is taken off), and DoRA's magnitudes
    are the rows' norms. Works on the meta device. Raises ConfigError for a name in use and for patterns that match
    nothing.
    """
    places = select(model, config.targets, config.exclude)
    for field_name in ("rank_pattern", "alpha_pattern"):
        checked_patterns(field_name, getattr(config, field_name), places)
    parts = {}
    for place in places:
        rows, cols = place.shape
        rank = by_pattern(config.rank_pattern, place.name, config.rank)
        device = next(itertools.chain(place.linear.parameters(), place.linear.buffers())).device
        part = LowRank(
            torch.empty(rank, cols, device=device),
            torch.zeros(rows, rank, device=device),
            torch.linalg.vector_norm(matrix_of(place.linear, torch.float32), dim=1) if config.dora else None,
            alpha=by_pattern(config.alpha_pattern, place.name, config.alpha),
            rslora=config.rslora,
            dropout=config.dropout,
        )
        _INITIALISATIONS[config.init](part, place)
        parts[place.path] = part
    return _put(model, parts, name)


def attach(model: Pretrained, adapter: Adapter, name: str = DEFAULT, *, dropout: float = 0.0) -> list[nn.Parameter]:
    """The same with an adapter that was read from disk: to train it on, or to merge it.

    Raises ConfigError for a name in use, ValueError for an adapter of another model.
    """
    paths = {place.bare: place.path for place in places_of(model)}
    if unknown := sorted(set(adapter.additions) - set(paths)):
        raise ValueError(f"the model has no matrix {unknown[0]} that an adapter could add to")
    device = next(model.parameters()).device
    parts = {
        paths[bare]: LowRank(
            torch.tensor(each.a_rC, device=device),
            torch.tensor(each.b_Rr, device=device),
            None if each.m_R is None else torch.tensor(each.m_R, device=device),
            alpha=each.alpha,
            rslora=each.rslora,
            dropout=dropout,
        )
        for bare, each in adapter.additions.items()
    }
    return _put(model, parts, name)


def _put(model: Pretrained, parts: Mapping[str, LowRank], name: str) -> list[nn.Parameter]:
    if not name or "." in name:
        raise ConfigError(f"an adapter's name must have a letter and no dot, got {name!r}")
    if name in names_of(model):
        raise ConfigError(f"the model has an adapter {name!r} already; remove it first")
    model.requires_grad_(False)
    for path, part in parts.items():
        module = model.get_submodule(path)
        if not isinstance(module, AdaptedLinear):
            assert isinstance(module, nn.Linear | PackedLinear)
            training, module = module.training, AdaptedLinear(module)
            model.set_submodule(path, module.train(training))
        module.adapters[name] = part.train(module.training)
    activate(model, name)
    return [parameter for part in parts.values() for parameter in part.parameters()]


def adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The modules that adapters are on, by their paths."""
    return {path: module for path, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def names_of(model: nn.Module) -> tuple[str, ...]:
    """The adapters that are on a model, active or not, in the order in which they came."""
    return tuple(dict.fromkeys(name for module in adapted(model).values() for name in module.adapters))


def parts_of(model: nn.Module, name: str = DEFAULT) -> dict[str, LowRank]:
    """An adapter's parts by the paths of the modules that they are on. Raises ConfigError for one that is not there."""
    _check_there(model, name)
    return {
        path: part
        for path, module in adapted(model).items()
        if name in module.adapters and isinstance(part := module.adapters[name], LowRank)
    }


def _check_there(model: nn.Module, *names: str) -> None:
    there = names_of(model)
    for name in names:
        if name not in there:
            raise ConfigError(f"there is no adapter {name!r} on the model; there are: {', '.join(there) or 'none'}")


def activate(model: nn.Module, *names: str) -> None:
    """Make these the active adapters, whose sum the model computes with; they alone require gradients.

    Raises ConfigError for one that is not there. Undoes a merge.
    """
    _check_there(model, *names)
    for module in adapted(model).values():
        module.merged_RC = None
        module.active = tuple(name for name in names if name in module.adapters)
        for name, part in module.adapters.items():
            part.requires_grad_(name in names)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within it the model computes without adapters, as a reference policy does; afterwards as before."""
    held = [(module, module.active, module.merged_RC) for module in adapted(model).values()]
    try:
        for module, _, _ in held:
            module.active, module.merged_RC = (), None
        yield
    finally:
        for module, active, merged_RC in held:
            module.active, module.merged_RC = active, merged_RC


def remove(model: nn.Module, *names: str) -> None:
    """Take adapters off, all of them where none is named. Where none is left, the module that was there is back.

    The base is the same object with the same values, still frozen. Raises ConfigError for one that is not there.
    """
    _check_there(model, *names)
    gone = names or names_of(model)
    for path, module in adapted(model).items():
        module.merged_RC = None
        module.active = tuple(name for name in module.active if name not in gone)
        for name in [name for name in module.adapters if name in gone]:
            del module.adapters[name]
        if not module.adapters:
            model.set_submodule(path, module.base)


# --- merging ----------------------------------------------------------------------------------------------------------


def merge(model: nn.Module) -> None:
    """Compute with the sums of the model's matrices and the active adapters, held beside both, until `unmerge`."""
    for module in adapted(model).values():
        module.merged_RC = module.sum()


def unmerge(model: nn.Module) -> None:
    """Compute with matrices and adapters apart again; the base was never written to."""
    for module in adapted(model).values():
        module.merged_RC = None


def bake(model: nn.Module) -> None:
    """Make a plain model of it: the active adapters merged for good, all others gone, packed matrices de-quantised.

    What was trained beside rounded weights is merged onto these very weights, not onto the ones that were rounded
    (peft#2321). Such matrices remember it, and `qlora.quantize` warns before it rounds the adapter away.
    """
    for path, module in list(model.named_modules()):
        if isinstance(module, AdaptedLinear):
            model.set_submodule(path, _linear(module.sum(), module.base))
        elif isinstance(module, PackedLinear) and not path.endswith(BASE):
            model.set_submodule(path, _linear(module.matrix(module.dtype).clone(), module))


def _linear(w_RC: Tensor, base: nn.Linear | PackedLinear) -> nn.Linear:
    kind = UnpackedLinear if isinstance(base, PackedLinear) else nn.Linear
    linear = kind(base.in_features, base.out_features, bias=False, device="meta")
    linear.weight = nn.Parameter(w_RC, requires_grad=False)
    linear.register_parameter("bias", base.bias)
    if isinstance(linear, UnpackedLinear) and isinstance(base, PackedLinear):
        linear.was = base.kind
    return linear.train(base.training)


# --- how it begins ----------------------------------------------------------------------------------------------------


def _kaiming(part: LowRank, place: Place) -> None:
    bound = 1 / math.sqrt(place.shape[1])
    part.a_rC.uniform_(-bound, bound)


def _gaussian(part: LowRank, place: Place) -> None:
    part.a_rC.normal_(std=1 / len(part.a_rC))


def _pissa(part: LowRank, place: Place) -> None:
    """The r largest singular values and their vectors (Meng et al. 2024, arXiv:2404.02948, eq. 2 and 3)."""
    rank = len(part.a_rC)
    if rank > min(place.shape):
        raise ConfigError(f"rank {rank} is more than {place.name} has, which is {place.shape[0]} x {place.shape[1]}")
    w_RC = matrix_of(place.linear, torch.float32)
    if w_RC.is_meta:
        return
    u_Rr, s_r, v_Cr = torch.svd_lowrank(w_RC, q=min(2 * rank + 8, *w_RC.shape), niter=8)
    root_r = (s_r[:rank] / part.scale).sqrt()
    part.a_rC.copy_((v_Cr[:, :rank] * root_r).T)
    part.b_Rr.copy_(u_Rr[:, :rank] * root_r)
    part.start_a_rC, part.start_b_Rr = part.a_rC.clone(), part.b_Rr.clone()


_INITIALISATIONS: dict[str, Callable[[LowRank, Place], None]] = {
    "kaiming": _kaiming,
    "gaussian": _gaussian,
    "pissa": _pissa,
}
