"""Losses that learn from which of two completions is preferred, or from which completions are good.

With w a preferred completion and l a rejected one, of one prompt, each a sum of its tokens' log-probabilities log p,
or where it says so their mean, `ref` those of a frozen reference, and

    d = (log p(w) - log p_ref(w)) - (log p(l) - log p_ref(l)) - margin / beta

the losses of a pair are, in the order of `PAIR_LOSSES`,

    dpo     -(1 - s) log sigmoid(beta d) - s log sigmoid(-beta d)         Rafailov et al. 2023, arXiv:2305.18290, eq. 7;
                                                                          smoothed by s: Mitchell 2023 (cDPO)
    robust  (-(1 - s) log sigmoid(beta d) + s log sigmoid(-beta d)) / (1 - 2 s)         labels flip at rate s: Chowdhury
                                                                          et al. 2024, arXiv:2403.00409, eq. 10
    hinge   max(0, 1 - beta d)                                            Zhao et al. 2023, arXiv:2305.10425 (SLiC)
    ipo     (d - 1 / (2 beta))^2                                          Azar et al. 2023, arXiv:2310.12036, eq. 17;
                                                                          of means, or of sums where `average` is off
    orpo    -mean log p(w) - beta log sigmoid(log odds(w) - log odds(l))  Hong et al. 2024, arXiv:2403.07691, eq. 6-7,
                                                                          odds of means, no reference
    simpo   -log sigmoid(beta (mean log p(w) - mean log p(l)) - gamma)    Meng et al. 2024, arXiv:2405.14734, eq. 6,
                                                                          no reference

Shapes: S completions, P pairs; completions 2 p and 2 p + 1 are those of pair p, the preferred one first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, relu

from modelworks.core.errors import ConfigError
from modelworks.data.batch import Batch
from modelworks.objectives.base import Metrics, Ratio
from modelworks.objectives.completions import Completions, completions, pair_metrics
from modelworks.parallel.ranks import sum_over_ranks

PairLoss = Literal["dpo", "robust", "hinge", "ipo", "orpo", "simpo"]
WITHOUT_REFERENCE = ("orpo", "simpo")


class Pairs(NamedTuple):
    """A policy's and its reference's log-probabilities of both sides, float32."""

    chosen: Completions
    rejected: Completions
    chosen_reference_P: Tensor
    rejected_reference_P: Tensor
    margins_P: Tensor


@dataclass(frozen=True)
class Preference:
    """A loss of pairs, each times its weight. Batches are those of `data.pairs`.

    Beside the names of `data.branches` they have `pair_weights` and `margins` (P,), and unless the loss needs no
    reference `reference` (S,), its sums of log-probabilities. `sft` adds that times the mean negative log-probability
    of the preferred completion (Pang et al. 2024, arXiv:2404.19733, eq. 2).

    Metrics: `accuracy`, the part of pairs whose preferred completion has the higher reward (ties are half right);
    `reward_chosen`, `reward_rejected` and `reward_margin`, where a reward is beta times the log-ratio to the reference
    (or beta times the mean log-probability where there is none); `nll`, of a token of preferred completions. Raises
    ConfigError for settings that make no loss.
    """

    loss: PairLoss = "dpo"
    beta: float = 0.1
    smoothing: float = 0.0
    average: bool = True
    gamma: float = 0.5
    sft: float = 0.0

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("loss", self.loss in PAIR_LOSSES, " or ".join(PAIR_LOSSES)),
            ("beta", self.beta > 0, "above 0"),
            ("smoothing", 0 <= self.smoothing < 0.5, "0 or more, and below .5, where labels say nothing"),
            ("smoothing", self.smoothing == 0 or self.loss in ("dpo", "robust"), f"0 with {self.loss}"),
            ("sft", self.sft >= 0, "0 or more"),
        ):
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {expected}")

    def weight(self, batch: Batch) -> Tensor:
        return batch["pair_weights"].float().sum()

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        weights_P = batch["pair_weights"].float()
        both = completions(model, batch, 2 * len(weights_P))
        reference_S = torch.zeros_like(both.logps_S) if self.loss in WITHOUT_REFERENCE else batch["reference"].float()
        chosen, rejected = (Completions(*(part[side::2] for part in both)) for side in (0, 1))
        pairs = Pairs(chosen, rejected, reference_S[::2], reference_S[1::2], batch["margins"].float())
        losses_P = PAIR_LOSSES[self.loss](self, pairs)
        nll_P = -chosen.means_S
        if self.sft:
            losses_P = losses_P + self.sft * nll_P
        nll = Ratio((nll_P.detach() * weights_P).sum(), weights_P.sum())
        return (losses_P * weights_P).sum(), {**pair_metrics(*self._rewards(pairs), weights_P), "nll": nll}

    def _rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        sides = ((pairs.chosen, pairs.chosen_reference_P), (pairs.rejected, pairs.rejected_reference_P))
        with torch.no_grad():
            if self.loss in WITHOUT_REFERENCE:
                chosen_P, rejected_P = (self.beta * side.means_S for side, _ in sides)
            else:
                chosen_P, rejected_P = (self.beta * (side.logps_S - reference_P) for side, reference_P in sides)
        return chosen_P, rejected_P


# --- the losses of pairs ----------------------------------------------------------------------------------------------


def _log_ratios(options: Preference, pairs: Pairs) -> Tensor:
    """d of the module's docstring, of sums."""
    chosen_P = pairs.chosen.logps_S - pairs.chosen_reference_P
    rejected_P = pairs.rejected.logps_S - pairs.rejected_reference_P
    return chosen_P - rejected_P - pairs.margins_P / options.beta


def _dpo(options: Preference, pairs: Pairs) -> Tensor:
    z_P, s = options.beta * _log_ratios(options, pairs), options.smoothing
    return -(1 - s) * logsigmoid(z_P) - s * logsigmoid(-z_P)


def _robust(options: Preference, pairs: Pairs) -> Tensor:
    z_P, s = options.beta * _log_ratios(options, pairs), options.smoothing
    return (-(1 - s) * logsigmoid(z_P) + s * logsigmoid(-z_P)) / (1 - 2 * s)


def _hinge(options: Preference, pairs: Pairs) -> Tensor:
    return relu(1 - options.beta * _log_ratios(options, pairs))


def _ipo(options: Preference, pairs: Pairs) -> Tensor:
    chosen_P = pairs.chosen.logps_S - pairs.chosen_reference_P
    rejected_P = pairs.rejected.logps_S - pairs.rejected_reference_P
    if options.average:
        chosen_P, rejected_P = chosen_P / pairs.chosen.lengths_S, rejected_P / pairs.rejected.lengths_S
    d_P = chosen_P - rejected_P - pairs.margins_P / options.beta
    return (d_P - 1 / (2 * options.beta)).square()


def _orpo(options: Preference, pairs: Pairs) -> Tensor:
    chosen_P, rejected_P = pairs.chosen.means_S, pairs.rejected.means_S
    log_odds_P = (chosen_P - rejected_P) - (_log1mexp(chosen_P) - _log1mexp(rejected_P))
    return -chosen_P - options.beta * logsigmoid(log_odds_P - pairs.margins_P)


def _simpo(options: Preference, pairs: Pairs) -> Tensor:
    gap_P = pairs.chosen.means_S - pairs.rejected.means_S
    return -logsigmoid(options.beta * gap_P - options.gamma - pairs.margins_P)


PAIR_LOSSES: dict[str, Callable[[Preference, Pairs], Tensor]] = {
    "dpo": _dpo,
    "robust": _robust,
    "hinge": _hinge,
    "ipo": _ipo,
    "orpo": _orpo,
    "simpo": _simpo,
}


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact near 0 as well as far from it (Maechler 2012)."""
    x = x.clamp_max(-torch.finfo(x.dtype).tiny)
    near = x > -0.6931471805599453
    # Each branch gets what it can take, as the gradient of what is not chosen would else be NaN.
    small = torch.where(near, x, -1.0)
    large = torch.where(near, -1.0, x)
    return torch.where(near, (-torch.expm1(small)).log(), torch.log1p(-large.exp()))


# --- unpaired ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KTO:
    """Completions that are good or bad, without pairs (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8).

    With r = log p - log p_ref of a completion, and z the policy's divergence from the reference, which is estimated by
    the mean r of completions that answer other prompts, over all ranks, not below 0, and without gradient:

        desirable * (1 - sigmoid(beta (r - z)))  or  undesirable * (1 - sigmoid(beta (z - r)))

    Batches are those of `data.pairs.read_rated`: completions 2 i and 2 i + 1 are row i's own and another prompt's;
    `labels` (P,) is 1 where the own one is good, `pair_weights` (P,) what it counts, `reference` (S,) the reference's
    sums. z is of one micro-batch, so it is noisier where steps are accumulated. Metrics: `kl` (z before it is cut at
    0), `reward_good`, `reward_bad`, `reward_margin` of them where both are there, and `accuracy`, the part of
    completions on their side of z. Raises ConfigError for numbers out of range.
    """

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("beta", 0.0), ("desirable", 0.0), ("undesirable", 0.0)):
            if not getattr(self, name) > least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected above 0")

    def weight(self, batch: Batch) -> Tensor:
        return batch["pair_weights"].float().sum()

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        weights_P, is_good_P = batch["pair_weights"].float(), batch["labels"] > 0
        found = completions(model, batch, 2 * len(weights_P))
        ratios_S = found.logps_S - batch["reference"].float()
        own_P, others_P = ratios_S[::2], ratios_S[1::2].detach()
        counts_P = (weights_P > 0).float()
        total, count = sum_over_ranks(torch.stack([(others_P * counts_P).sum(), counts_P.sum()]))
        kl = total / count.clamp_min(1)
        z = kl.clamp_min(0)
        sign_P = torch.where(is_good_P, 1.0, -1.0)
        scale_P = torch.where(is_good_P, self.desirable, self.undesirable)
        losses_P = scale_P * (1 - torch.sigmoid(self.beta * sign_P * (own_P - z)))
        rewards_P = self.beta * own_P.detach()
        right_P = (sign_P * (own_P.detach() - z) > 0).float()
        metrics = {
            "kl": Ratio(kl * weights_P.sum(), weights_P.sum()),
            "accuracy": Ratio((right_P * weights_P).sum(), weights_P.sum()),
        }
        for name, side_P in (("reward_good", is_good_P), ("reward_bad", ~is_good_P)):
            metrics[name] = Ratio((rewards_P * weights_P * side_P).sum(), (weights_P * side_P).sum())
        return (losses_P * weights_P).sum(), metrics
