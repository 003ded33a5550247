"""Which steps to take: none whose loss or gradient is not finite, nor far above those before it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelworks.core.errors import ConfigError

_WINDOW, _LEAST = 64, 16


@dataclass(frozen=True, kw_only=True)
class GuardRecipe:
    """When a step is skipped, and when the run goes back to its last checkpoint."""

    spike: float = 20.0
    "Skip a step whose loss or gradient norm is so many interquartile ranges above the median of the last 64; 0: never."
    patience: int = 5
    "Go back after so many skipped steps in a row."
    rollbacks: int = 3
    "Give up after so many of those."

    def __post_init__(self) -> None:
        if not self.spike >= 0:
            raise ConfigError(f"spike must be 0 or more, got {self.spike}")
        if self.patience < 1 or self.rollbacks < 0:
            raise ConfigError(f"patience must be 1 or more and rollbacks 0 or more; got {vars(self)}")


class Guard:
    """Remembers the losses and gradient norms of the steps that were taken."""

    def __init__(self, recipe: GuardRecipe) -> None:
        self.recipe = recipe
        self.skipped = 0
        """Steps in a row that were not taken."""
        self._taken: dict[str, deque[float]] = {name: deque(maxlen=_WINDOW) for name in ("loss", "gradient norm")}

    def reason_to_skip(self, *, loss: float, grad_norm: float) -> str | None:
        """Why this step must not be taken, None where it may; remembers what is told."""
        reason = None
        for (name, taken), value in zip(self._taken.items(), (loss, grad_norm)):
            if reason is None and not math.isfinite(value):
                reason = f"{name} is {value}"
            elif reason is None and self.recipe.spike and len(taken) >= _LEAST:
                low, middle, high = np.percentile(taken, (25, 50, 75))
                if value > middle + self.recipe.spike * max(high - low, 1e-3 * abs(middle)):
                    reason = f"{name} {value:.4g} is far above {middle:.4g}, the median of the last {len(taken)}"
        if reason is not None:
            self.skipped += 1
            return reason
        self.skipped = 0
        for taken, value in zip(self._taken.values(), (loss, grad_norm)):
            taken.append(value)
        return None

    @property
    def gives_up(self) -> bool:
        return self.skipped >= self.recipe.patience

    def state(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "taken": {name: list(taken) for name, taken in self._taken.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.skipped = state["skipped"]
        for name, taken in self._taken.items():
            taken.clear()
            taken.extend(state["taken"][name])
