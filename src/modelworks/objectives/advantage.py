"""From rewards to advantages: pure functions of tensors, which `train.rollout` applies to what was sampled.

Shapes: S completions, T tokens of the longest; a mask is 1 for the tokens of a completion, which come first, else 0.
G completions of one prompt, P prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# As TRL and the papers' own code have them.
_WHITE_EPS, _GROUP_EPS = 1e-8, 1e-4


class Advantages(NamedTuple):
    advantages_ST: Tensor
    returns_ST: Tensor
    """Advantages plus values: what the values should have been. They are those before any whitening."""


def gae(rewards_ST: Tensor, values_ST: Tensor, mask_ST: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv:1506.02438, eq. 16).

    d_t = r_t + gamma V_t+1 - V_t and A_t = d_t + gamma lam A_t+1, with V and A 0 after a completion's last token; 0
    where the mask is.
    """
    mask_ST = mask_ST.to(rewards_ST.dtype)
    rewards_ST, values_ST = rewards_ST * mask_ST, values_ST * mask_ST
    ahead_S = value_S = torch.zeros_like(rewards_ST[:, 0])
    found: list[Tensor] = []
    for t in reversed(range(rewards_ST.shape[1])):
        delta_S = rewards_ST[:, t] + gamma * value_S - values_ST[:, t]
        ahead_S, value_S = (delta_S + gamma * lam * ahead_S) * mask_ST[:, t], values_ST[:, t]
        found.append(ahead_S)
    advantages_ST = torch.stack(found[::-1], 1)
    return Advantages(advantages_ST, advantages_ST + values_ST)


def at_last(scores_S: Tensor, mask_ST: Tensor) -> Tensor:
    """Rewards of tokens: each score at its completion's last true token, never on padding (trl#3750).

    Raises ValueError for a completion without tokens.
    """
    lengths_S = mask_ST.long().sum(-1)
    if (lengths_S == 0).any():
        raise ValueError("a completion has no token that could take its reward")
    rewards_ST = torch.zeros(mask_ST.shape, dtype=scores_S.dtype, device=scores_S.device)
    return rewards_ST.scatter(1, (lengths_S - 1)[:, None], scores_S[:, None])


def whiten(values_ST: Tensor, mask_ST: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Values with mean 0 (or, without `shift_mean`, the mean they had) and variance 1 over the mask; 0 elsewhere.

    The variance is the unbiased one, plus 1e-8. Advantages are whitened with, rewards without, shifting the mean: that
    would make a reward of every token. Fewer than two values have no variance, and stay.
    """
    mask_ST = mask_ST.to(values_ST.dtype)
    count = mask_ST.sum()
    if count < 2:
        return values_ST * mask_ST
    mean = (values_ST * mask_ST).sum() / count
    variance = ((values_ST - mean).square() * mask_ST).sum() / (count - 1)
    white_ST = (values_ST - mean) * (variance + _WHITE_EPS).rsqrt()
    return (white_ST if shift_mean else white_ST + mean) * mask_ST


def group_advantages(scores_PG: Tensor, *, scale: bool = True) -> Tensor:
    """How much better each answer is than its prompt's others, NaN for a score that is NaN, which counts nowhere.

    (r - mean) / (std + 1e-4), std unbiased (GRPO; Shao et al. 2024, arXiv:2402.03300, section 4.1.2); without `scale`
    r - mean, which does not favour prompts that are almost always or almost never solved (Dr. GRPO; Liu et al. 2025,
    arXiv:2503.20783, section 3.1). Answers that are alike, or alone, have 0.
    """
    there_PG = ~scores_PG.isnan()
    count_P1 = there_PG.sum(-1, keepdim=True)
    gap_PG = scores_PG - scores_PG.nanmean(-1, keepdim=True)
    if not scale:
        return gap_PG
    variance_P1 = gap_PG.square().nansum(-1, keepdim=True) / (count_P1 - 1).clamp_min(1)
    return gap_PG / (variance_P1.sqrt() + _GROUP_EPS)


def leave_one_out(scores_PG: Tensor) -> Tensor:
    """Each score less the mean of its prompt's others (RLOO; Ahmadian et al. 2024, arXiv:2402.14740, eq. 7).

    NaN for a score that is NaN, which counts nowhere; 0 for one that is alone.
    """
    count_P1 = (~scores_PG.isnan()).sum(-1, keepdim=True)
    gap_PG = scores_PG - scores_PG.nanmean(-1, keepdim=True)
    # r - (sum - r) / (n - 1) = n / (n - 1) (r - mean)
    return gap_PG * count_P1 / (count_P1 - 1).clamp_min(1)


# --- divergence from a reference --------------------------------------------------------------------------------------


def k1(log_ratio: Tensor) -> Tensor:
    """KL(p || q) as log p/q of what p drew: unbiased, and negative as often as not (Schulman 2020)."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """(log p/q)^2 / 2: biased, little where p is near q; never negative."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """q/p - 1 - log q/p: unbiased and never negative."""
    return torch.expm1(-log_ratio) + log_ratio


def next_coefficient(coefficient: float, kl: float, *, target: float, rate: float = 0.1) -> float:
    """The penalty's next coefficient, so that the KL of an answer comes to `target` (Ziegler et al. 2019,
    arXiv:1909.08593, section 2.2): b (1 + rate e), e = KL / target - 1 within +-.2.
    """
    error = min(0.2, max(-0.2, kl / target - 1))
    return coefficient * (1 + rate * error)
