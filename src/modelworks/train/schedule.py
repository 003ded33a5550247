"""Learning-rate schedules, as pure functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from modelworks.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """Which part of the peak learning rate each step has.

    constant  the peak
    linear    down a straight line
    cosine    down half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)
    wsd       the peak, then down by 1 - sqrt in the last `decay` of all steps (Hägele et al. 2024, arXiv:2405.18392)
    """

    name: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup: int = 0
    "Steps that rise to the peak in a straight line; the first has 1 / warmup of it."
    floor: float = 0.0
    "The part of the peak that it falls to: the last step is one step above."
    decay: float = 0.2

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ConfigError(f"warmup must be 0 or more, got {self.warmup}")
        for name in ("floor", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

    def factor(self, step: int, steps: int) -> float:
        """The part of the peak for `step` (from 0) of `steps`; `floor` beyond them."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        first = self.warmup
        if self.name == "wsd":
            first = max(first, steps - round(self.decay * steps))
        done = min(1.0, max(0.0, (step - first) / max(1, steps - first)))
        left = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
            "wsd": 1 - math.sqrt(done),
        }[self.name]
        return 1.0 if self.name == "constant" else self.floor + (1 - self.floor) * left
