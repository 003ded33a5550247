"""What a model says of the completions in a batch of `data.branches`: the ground of all losses that compare them.

Shapes: B rows, T tokens, N = B T, S completions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from modelworks.data.batch import Batch
from modelworks.kernels.cross_entropy import linear_logprobs
from modelworks.models.base import evaluating
from modelworks.objectives.base import Ratio


class Completions(NamedTuple):
    """Of each completion, its tokens' log-probabilities, each times its weight, in float32."""

    logps_S: Tensor
    """Their sum."""
    lengths_S: Tensor
    """The sum of the weights: how many tokens count."""

    @property
    def means_S(self) -> Tensor:
        return self.logps_S / self.lengths_S


def completions(model: nn.Module, batch: Batch, count: int) -> Completions:
    """The completions' log-probabilities under a model, `count` of them.

    The model runs without dropout, whatever its mode, though with gradients: what is compared with a reference has to
    equal it where the weights do (trl#744).
    """
    weights_N = batch["weights"].flatten().float()

    def readout(x_BTC: Tensor, w_VC: Tensor) -> Tensor:
        return linear_logprobs(x_BTC.flatten(0, 1), w_VC, batch["targets"].flatten(), weights_N).logprobs_N

    with evaluating(model):
        logprobs_N: Tensor = model(
            batch["input_ids"],
            positions_BT=batch["positions"],
            attention_mask_BS=batch["attention_mask"],
            readout=readout,
        )
    return Completions(by_completion(logprobs_N * weights_N, batch, count), by_completion(weights_N, batch, count))


def pair_metrics(chosen_P: Tensor, rejected_P: Tensor, weights_P: Tensor) -> dict[str, Ratio]:
    """What is told of the rewards of pairs: `accuracy` (ties are half right), `reward_chosen`, `reward_rejected` and
    `reward_margin`, each pair by its weight.
    """
    chosen_P, rejected_P = chosen_P.detach(), rejected_P.detach()
    found = {
        "accuracy": (chosen_P > rejected_P).float() + (chosen_P == rejected_P).float() / 2,
        "reward_chosen": chosen_P,
        "reward_rejected": rejected_P,
        "reward_margin": chosen_P - rejected_P,
    }
    return {name: Ratio((values_P * weights_P).sum(), weights_P.sum()) for name, values_P in found.items()}


def by_completion(values_N: Tensor, batch: Batch, count: int) -> Tensor:
    """The sum of each completion's values, values_S."""
    sequences_N = batch["sequences"].flatten()
    inside_N = sequences_N >= 0
    zeros_S = torch.zeros(count, dtype=values_N.dtype, device=values_N.device)
    return zeros_S.index_add(0, sequences_N[inside_N], values_N[inside_N])
