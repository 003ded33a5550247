"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) and the scalings that stretch their context.

Shapes: B batch, H heads, T tokens, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelworks.core.errors import ConfigError
from modelworks.models.config import check_numbers, check_sizes, given

_NUMBERS = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")
_OPTIONAL_NUMBERS = ("attention_factor", "mscale", "mscale_all_dim")
# What each type reads, beside its base.
_USED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
}


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """One set of rotary frequencies; names and defaults are those of Hugging Face's `rope_parameters`.

    `original_max_position_embeddings` is the length trained on, before the context was stretched by `factor`.
    """

    rope_theta: float = 10_000.0
    rope_type: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    # llama3
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    # yarn
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        values = vars(self)
        check_numbers(values, _NUMBERS)
        check_numbers(values, (name for name in _OPTIONAL_NUMBERS if values[name] is not None))
        if self.original_max_position_embeddings is not None:
            check_sizes(values, ["original_max_position_embeddings"])
        if min(self.rope_theta, self.factor) <= 0 or self.low_freq_factor == self.high_freq_factor:
            raise ConfigError(f"no rotary frequency follows from {self}")
        if self.rope_type == "yarn" and (self.rope_theta == 1 or min(self.beta_fast, self.beta_slow) <= 0):
            raise ConfigError(f"no rotary frequency follows from {self}")

    @classmethod
    def from_hf(cls, parameters: Mapping[str, Any], *, theta: float, max_position_embeddings: int) -> RopeConfig:
        """Read `rope_parameters` (transformers 5) or `rope_scaling` (before); `theta` serves where they lack one.

        Raises ConfigError for a rope type that is not implemented.
        """
        if not isinstance(parameters, Mapping):
            raise ConfigError(f"rotary parameters must be an object, got {parameters!r}")
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if not isinstance(kind, str) or kind not in _USED:
            raise ConfigError(f"rope_type {kind!r} is not supported; supported are {', '.join(_USED)}")
        if (parameters.get("partial_rotary_factor") or 1.0) != 1.0:
            raise ConfigError("a partial_rotary_factor other than 1 is not supported")
        values = given(parameters, _USED[kind])
        if kind != "default" and "factor" not in values:
            raise ConfigError(f"rope_type {kind!r} needs a factor")
        if kind in ("dynamic", "llama3", "yarn"):  # dynamic knows no other length than the config's
            values.setdefault("original_max_position_embeddings", max_position_embeddings)
        return cls(**({"rope_theta": theta} | given(parameters, ["rope_theta"]) | values), rope_type=kind)

    def to_hf(self) -> dict[str, Any]:
        """The same as a `rope_parameters` dict, without what its type does not use."""
        return {"rope_type": self.rope_type, "rope_theta": self.rope_theta} | given(vars(self), _USED[self.rope_type])

    def frequencies(self, head_dim: int, length: int) -> tuple[Tensor, float]:
        """Radians a position for each pair of a head's dimensions (float32, D/2), and a factor on cos and sin.

        `length` is the sequence's; only `dynamic` depends on it.
        """
        theta = self.rope_theta
        if self.rope_type == "dynamic":
            # NTK-aware: the base grows with the length beyond the trained one (bloc97, emozilla 2023).
            trained = self._trained
            stretch = self.factor * max(length, trained) / trained - (self.factor - 1)
            theta *= stretch ** (head_dim / (head_dim - 2))
        frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        if self.rope_type == "linear":  # position interpolation (Chen et al. 2023, arXiv:2306.15595)
            return frequency / self.factor, 1.0
        if self.rope_type == "llama3":
            return self._llama3(frequency), 1.0
        if self.rope_type == "yarn":
            return self._yarn(frequency, head_dim), self._yarn_attention_factor()
        return frequency, 1.0

    @property
    def _trained(self) -> int:
        assert self.original_max_position_embeddings is not None, "from_hf sets it for the types that need it"
        return self.original_max_position_embeddings

    def _llama3(self, frequency: Tensor) -> Tensor:
        """Llama 3.1: long wavelengths are stretched, short ones kept, those between blended."""
        turns = self._trained * frequency / (2 * math.pi)  # full turns within the trained length
        keep = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        keep = keep.clamp(0, 1)
        return (1 - keep) * frequency / self.factor + keep * frequency

    def _yarn(self, frequency: Tensor, head_dim: int) -> Tensor:
        """YaRN, "NTK-by-parts" (Peng et al. 2023, arXiv:2309.00071, section 3.2)."""

        def dimension(turns: float) -> float:
            """The pair that makes so many turns within the trained length."""
            return head_dim * math.log(self._trained / (turns * 2 * math.pi)) / (2 * math.log(self.rope_theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        width = high - low if high != low else 0.001
        stretch = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
        return stretch * frequency / self.factor + (1 - stretch) * frequency

    def _yarn_attention_factor(self) -> float:
        """Sharpens the softmax for long contexts (ibid., eq. 22), here on cos and sin; mscale is DeepSeek's."""

        def by(mscale: float) -> float:
            return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return by(self.mscale) / by(self.mscale_all_dim)
        return by(1.0)


def rotary(config: RopeConfig, positions_BT: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of each position's angles, each B x 1 x T x D (both halves alike), ready for `rotate`."""
    length = int(positions_BT.max()) + 1 if config.rope_type == "dynamic" else 0
    frequency, factor = config.frequencies(head_dim, length)
    angle = positions_BT[:, None, :, None].float() * frequency.to(positions_BT.device)
    angle = torch.cat((angle, angle), dim=-1)
    return (angle.cos() * factor).to(dtype), (angle.sin() * factor).to(dtype)


def rotate(x_BHTD: Tensor, cos_B1TD: Tensor, sin_B1TD: Tensor) -> Tensor:
    """Rotate pairs (i, i + D/2) of each head: the layout of Hugging Face's checkpoints, not the paper's (2i, 2i+1)."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos_B1TD + torch.cat((-second, first), dim=-1) * sin_B1TD
