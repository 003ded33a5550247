"""Learning a reward from which of two completions is preferred (Bradley and Terry 1952).

The reward of a completion is what a reward model says at its last true token: the one before the padding, be that an
EOS that the padding is equal to, or not the first EOS of the text (transformers#35352).

Shapes: B rows, T tokens, S completions, P pairs; completions 2 p and 2 p + 1 are those of pair p, the preferred first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from modelworks.core.errors import ConfigError
from modelworks.data.batch import Batch
from modelworks.objectives.base import Metrics
from modelworks.objectives.completions import pair_metrics


@dataclass(frozen=True)
class BradleyTerry:
    """-log sigmoid(r(w) - r(l) - margin) + centre (r(w) + r(l))^2, for each pair, times its weight.

    The model is a `RewardModel`; batches are those of `data.pairs`, `whole`. `centre` keeps rewards around 0
    (Eisenstein et al. 2023, arXiv:2312.09244, section 2), which comparisons alone leave open. Metrics: `accuracy` (ties
    are half right), `reward_chosen`, `reward_rejected`, `reward_margin`. Raises ConfigError for a centre below 0.
    """

    centre: float = 0.01

    def __post_init__(self) -> None:
        if not self.centre >= 0:
            raise ConfigError(f"centre is {self.centre}, expected 0 or more")

    def weight(self, batch: Batch) -> Tensor:
        return batch["pair_weights"].float().sum()

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        weights_P = batch["pair_weights"].float()
        rewards_S = last_token_rewards(model, batch, 2 * len(weights_P))
        chosen_P, rejected_P = rewards_S[::2], rewards_S[1::2]
        losses_P = (
            -logsigmoid(chosen_P - rejected_P - batch["margins"]) + self.centre * (chosen_P + rejected_P).square()
        )
        return (losses_P * weights_P).sum(), pair_metrics(chosen_P, rejected_P, weights_P)


def last_token_rewards(model: nn.Module, batch: Batch, count: int) -> Tensor:
    """What a reward model says at the last token of each of `count` completions, rewards_S in float32."""
    sequences_N = batch["sequences"].flatten()
    places_N = torch.arange(len(sequences_N), device=sequences_N.device)
    inside_N = sequences_N >= 0
    last_S = places_N.new_zeros(count).scatter_reduce(0, sequences_N[inside_N], places_N[inside_N], "amax")

    def readout(x_BTC: Tensor, w_1C: Tensor) -> Tensor:
        return (x_BTC.flatten(0, 1)[last_S] @ w_1C.T)[:, 0].float()

    rewards_S: Tensor = model(
        batch["input_ids"],
        positions_BT=batch["positions"],
        attention_mask_BS=batch["attention_mask"],
        readout=readout,
    )
    return rewards_S
