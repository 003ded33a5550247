"""Policy gradients: what was sampled becomes likelier by how much better it was than expected, within a clip.

With pi the model at the temperature that was sampled at, and a token's ratio rho = pi / pi_old, its loss is

    -min(rho A, clip(rho, 1 - clip, 1 + clip_high) A)        Schulman et al. 2017, arXiv:1707.06347, eq. 7 (PPO)
    + kl K                                                   K: below
    + vf 1/2 max((V - R)^2, (V_clipped - R)^2)               V_clipped = V_old + clip(V - V_old, +-value_clip)

where the ratio is of the token, or for all tokens of a completion `mean`, exp of the mean of their log-ratios (GSPO;
Zheng et al. 2025, arXiv:2507.18071, eq. 6-7), or `sum`, that of the whole completion (RLOO). At the first step after
sampling rho is 1 and the gradient is that of REINFORCE. A step's loss is the sum over tokens, in some by completions,
divided by

    grpo     tokens: mean of each completion, then over completions      Shao et al. 2024, arXiv:2402.03300, eq. 3
    bnpo     the tokens of the step
    dr_grpo  completions times the longest answer allowed                Liu et al. 2025, arXiv:2503.20783, section 3.2
    dapo     the step's share, by completions, of the tokens of the whole generation batch
                                                                         Yu et al. 2025, arXiv:2503.14476, eq. 8

Each divisor is a sum over the step's completions, so micro-batches and ranks add up. dapo's is of a window that does
not depend on how many steps are made of a generation batch, so that their gradients have one size (trl#5619).

**Divergence in the loss.** With d = log pi - log ref of a token that pi_old drew, s = grad log pi its score, E over
pi, and E_pi[s] = 0, the divergence at a place is KL(pi || ref) = E[d], whose gradient is E[d s + s] = E[d s]. Of the
estimators in `advantage`

    k1 = d                    grad k1 = s,                    E = 0: no gradient at all
    k2 = d^2 / 2              grad k2 = d s,                  E = E[d s]: right, where pi draws
    k3 = exp(-d) - 1 + d      grad k3 = (1 - exp(-d)) s,      E = -sum ref s = grad KL(ref || pi): the other direction

A value's own importance weight repairs that: for f in (k1, k3), E_old[rho f] is KL(pi || ref) for any pi, so that its
gradient rho (f s + grad f) is unbiased, whoever drew. k2 is no KL; but rho, held fixed, times grad k2 is rho d s, so
E_old of it is E[d s]. `kl_weighted` (the default) is that; without it the estimators are bare, as GRPO's paper and TRL
have them. All are of one token given its beginning. What a token does to the divergence of those that follow is only
counted where the divergence is in the reward.

Batches are those of `data.branches`, whose completions have of each token `old_logprobs` and `advantages`, with `kl`
`reference_logprobs`, with a critic `returns` and `old_values`; and of each completion `normalizers`, its share of the
generation batch's tokens (dapo), with a critic `mean_returns`, that of the generation batch. Columns of completions
named `note/...` are averaged and reported.

Shapes: B rows, T tokens, N = B T, S completions, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.data.batch import Batch
from modelworks.kernels.cross_entropy import linear_logprobs
from modelworks.models.base import evaluating
from modelworks.objectives.advantage import k1, k2, k3
from modelworks.objectives.base import Metrics, Ratio
from modelworks.objectives.completions import by_completion

RatioOf = Literal["token", "mean", "sum"]
Reduction = Literal["grpo", "bnpo", "dr_grpo", "dapo"]
Estimator = Literal["k1", "k2", "k3"]
ESTIMATORS: Final = {"k1": k1, "k2": k2, "k3": k3}
NOTE: Final = "note/"


class Scores(NamedTuple):
    """What a model says of each token of completions, float32; 0 elsewhere."""

    logprobs_N: Tensor
    entropies_N: Tensor
    """Without a gradient."""
    values_N: Tensor | None
    """Of the state before each token, where the model is an `ActorCritic`."""


def score(model: nn.Module, batch: Batch, *, temperature: float = 1.0) -> Scores:
    """Score the completions of a batch under softmax(logits / temperature), without dropout, whatever the mode."""
    targets_N, weights_N = batch["targets"].flatten(), batch["weights"].flatten().float()

    def readout(x_BTC: Tensor, w_VC: Tensor, value_1C: Tensor | None = None) -> Scores:
        x_NC = x_BTC.flatten(0, 1)
        found = linear_logprobs(x_NC, w_VC, targets_N, weights_N, temperature=temperature, entropy=True)
        values_N = None if value_1C is None else (x_NC @ value_1C.T)[:, 0].float() * (weights_N != 0)
        assert found.entropies_N is not None
        return Scores(found.logprobs_N, found.entropies_N, values_N)

    with evaluating(model):
        return model(
            batch["input_ids"],
            positions_BT=batch["positions"],
            attention_mask_BS=batch["attention_mask"],
            readout=readout,
        )


@dataclass(frozen=True)
class Policy:
    """See the module. `vf` above 0 needs an `ActorCritic`; `max_tokens` is the longest answer, for dr_grpo.

    Metrics, over tokens that count: `policy_loss`; `ratio`; `clip_fraction`, of tokens whose gradient the clip takes;
    `approx_kl`, KL(old || new) by k3; `entropy` in nats; with a reference `kl`, by k3; with a critic `value_loss`,
    `value_clip_fraction`, and `explained_variance`, 1 where values are the returns, 0 where their mean serves as well.
    Raises ConfigError for settings that make no loss.
    """

    ratio: RatioOf = "token"
    reduction: Reduction = "dapo"
    clip: float = 0.2
    clip_high: float | None = None
    "As `clip` where not given; higher leaves rare tokens room to become likelier (DAPO, section 3.1)."
    kl: float = 0.0
    kl_estimator: Estimator = "k3"
    kl_weighted: bool = True
    vf: float = 0.0
    value_clip: float = 0.2
    temperature: float = 1.0
    max_tokens: int = 0

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("ratio", self.ratio in ("token", "mean", "sum"), "token, mean or sum"),
            ("reduction", self.reduction in ("grpo", "bnpo", "dr_grpo", "dapo"), "grpo, bnpo, dr_grpo or dapo"),
            ("clip", 0 < self.clip < 1, "between 0 and 1"),
            ("clip_high", self.clip_high is None or self.clip_high > 0, "above 0"),
            ("kl", self.kl >= 0, "0 or more"),
            ("kl_estimator", self.kl_estimator in ESTIMATORS, "k1, k2 or k3"),
            (
                "kl_estimator",
                not self.kl or self.kl_estimator != "k1" or self.kl_weighted,
                "k2 or k3, or kl_weighted: bare k1 has an expected gradient of 0",
            ),
            ("vf", self.vf >= 0, "0 or more"),
            ("value_clip", self.value_clip > 0, "above 0"),
            ("temperature", self.temperature > 0, "above 0"),
            ("max_tokens", self.max_tokens > 0 or self.reduction != "dr_grpo", "above 0, for dr_grpo"),
        ):
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {expected}")

    def weight(self, batch: Batch) -> Tensor:
        lengths_S = _lengths(batch)
        match self.reduction:
            case "bnpo":
                return lengths_S.sum()
            case "dapo":
                return (batch["normalizers"].float() * (lengths_S > 0)).sum()
            case _:
                count = (lengths_S > 0).float().sum()
                return count * self.max_tokens if self.reduction == "dr_grpo" else count

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        found = score(model, batch, temperature=self.temperature)
        if (found.values_N is not None) != (self.vf > 0):
            raise ConfigError("a critic needs both: vf above 0, and an ActorCritic")
        mask_N, lengths_S = batch["weights"].flatten().float(), _lengths(batch)
        advantages_N, old_N = (batch[name].flatten().float() for name in ("advantages", "old_logprobs"))
        log_ratio_N = torch.where(mask_N != 0, found.logprobs_N - old_N, 0.0)
        ratio_N = self._ratio(log_ratio_N, mask_N, lengths_S, batch).exp()
        low, high = 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)
        surrogate_N = torch.minimum(ratio_N * advantages_N, ratio_N.clamp(low, high) * advantages_N)
        losses_N = -surrogate_N
        metrics = {
            "policy_loss": losses_N,
            "ratio": ratio_N,
            "clip_fraction": _clipped(ratio_N, advantages_N, low, high),
            "approx_kl": k3(-log_ratio_N),
            "entropy": found.entropies_N,
        }
        if "reference_logprobs" in batch:
            gap_N = torch.where(mask_N != 0, found.logprobs_N - batch["reference_logprobs"].flatten().float(), 0.0)
            metrics["kl"] = k3(gap_N)
            if self.kl:
                losses_N = losses_N + self.kl * self._divergence(gap_N, log_ratio_N.exp())
        elif self.kl:
            raise ConfigError("kl is above 0, and the batch has no reference_logprobs")
        explained: dict[str, Ratio] = {}
        if found.values_N is not None:
            value_N, was_clipped_N = self._value_loss(found.values_N, batch)
            losses_N = losses_N + self.vf * value_N
            metrics |= {"value_loss": value_N, "value_clip_fraction": was_clipped_N}
            explained["explained_variance"] = _explained(found.values_N.detach(), mask_N, batch)
        if self.reduction == "grpo":
            each_N = (1 / lengths_S.clamp_min(1e-9))[batch["sequences"].flatten().clamp_min(0)] if len(lengths_S) else 0
        else:
            each_N = 1
        count = mask_N.sum()
        told = {name: Ratio((values_N.detach() * mask_N).sum(), count) for name, values_N in metrics.items()}
        return (losses_N * mask_N * each_N).sum(), told | explained | _notes(batch)

    def _ratio(self, log_ratio_N: Tensor, mask_N: Tensor, lengths_S: Tensor, batch: Batch) -> Tensor:
        """Each token's log-ratio, or that of its completion."""
        if self.ratio == "token" or not len(lengths_S):
            return log_ratio_N
        whole_S = by_completion(log_ratio_N * mask_N, batch, len(lengths_S))
        if self.ratio == "mean":
            whole_S = whole_S / lengths_S.clamp_min(1e-9)
        return torch.where(mask_N != 0, whole_S[batch["sequences"].flatten().clamp_min(0)], 0.0)

    def _divergence(self, gap_N: Tensor, token_ratio_N: Tensor) -> Tensor:
        estimate_N = ESTIMATORS[self.kl_estimator](gap_N)
        if not self.kl_weighted:
            return estimate_N
        return estimate_N * (token_ratio_N.detach() if self.kl_estimator == "k2" else token_ratio_N)

    def _value_loss(self, values_N: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        returns_N, old_N = (batch[name].flatten().float() for name in ("returns", "old_values"))
        near_N = old_N + (values_N - old_N).clamp(-self.value_clip, self.value_clip)
        free_N, clipped_N = (values_N - returns_N).square(), (near_N - returns_N).square()
        return torch.maximum(free_N, clipped_N) / 2, (clipped_N > free_N).float()


def _lengths(batch: Batch) -> Tensor:
    """How many tokens of each completion count, (S,)."""
    sequences_BT = batch["sequences"]
    return by_completion(batch["weights"].flatten().float(), batch, int(sequences_BT.max()) + 1)


def _clipped(ratio_N: Tensor, advantages_N: Tensor, low: float, high: float) -> Tensor:
    return (((ratio_N < low) & (advantages_N < 0)) | ((ratio_N > high) & (advantages_N > 0))).float()


def _explained(values_N: Tensor, mask_N: Tensor, batch: Batch) -> Ratio:
    """The part of the returns' squared distance from their mean over the generation batch that values take away."""
    returns_N = batch["returns"].flatten().float()
    mean_N = batch["mean_returns"].float()[batch["sequences"].flatten().clamp_min(0)] if mask_N.any() else returns_N
    total = ((returns_N - mean_N).square() * mask_N).sum()
    return Ratio(total - ((returns_N - values_N).square() * mask_N).sum(), total)


def _notes(batch: Mapping[str, Tensor]) -> dict[str, Ratio]:
    # Sorted, as ranks add their metrics up in one order.
    found = {name: batch[name].float() for name in sorted(batch) if name.startswith(NOTE)}
    return {
        name.removeprefix(NOTE): Ratio(values_S.sum(), torch.ones_like(values_S).sum())
        for name, values_S in found.items()
    }
