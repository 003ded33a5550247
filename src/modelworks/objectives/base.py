"""What every objective is to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from modelworks.data.batch import Batch


class Ratio(NamedTuple):
    """A metric as what it is divided by and what is divided, so that micro-batches and ranks add up."""

    total: Tensor
    weight: Tensor


Metrics = Mapping[str, Ratio]


class Objective(Protocol):
    """A loss over a batch: its SUM over what counts, and how much counts.

    The loop divides the sum of all micro-batches and ranks by the weight of all of them, so that accumulating
    gradients never changes a step. Only `model(...)` itself is called, never a submodule: that is what is sharded,
    compiled and hooked.
    """

    def weight(self, batch: Batch) -> Tensor:
        """How much of the batch counts, as a scalar: tokens (by their weights), pairs or rows."""
        ...

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss, summed over what counts, with its graph; and what else is worth plotting, detached."""
        ...


@runtime_checkable
class SteppedObjective(Objective, Protocol):
    """An objective that moves something of the model itself, which no gradient does, once a step."""

    def after_step(self, model: nn.Module, *, taken: bool) -> None:
        """The loop calls it after the optimisers, on every rank, and with `taken` False after a step it skipped."""
        ...
