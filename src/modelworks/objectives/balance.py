"""Keeping the experts of a mixture evenly used, around any other objective.

What is added for each token, as a mean over the layers with experts:

- the balance loss, E sum_e f_e p_e, where f_e is the fraction of choices that went to expert e and p_e the token's own
  score for it, made to sum to 1 (Fedus et al. 2021, arXiv:2101.03961, eq. 4; its mean over tokens is 1 where the load
  is even). Only p_e has a gradient. Mixtral's code counts choices a token in the place of fractions: k times as much.
- the router's z-loss, (log sum_e exp(logit_e))^2 (Zoph et al. 2022, arXiv:2202.08906, eq. 5).

Tokens count by the weights of their targets, so both are sums as `objectives.base` asks for. With scope "sequence" f_e
is that of the token's own row (DeepSeek-V3, arXiv:2412.19437, eq. 17 to 20), and the loss is the same however a batch
is cut into micro-batches and spread over ranks. With "batch" f_e is that of all rows of one call, as in Switch and
Mixtral, which asks less of each row, and depends on that cut.

Loss-free balancing (Wang et al. 2024, arXiv:2408.15664, algorithm 1) moves each expert's bias for the choice by
`bias_rate` after a step, up where its load over the whole step was below the mean and down where it was above.

Shapes: B rows, T tokens, N = B T, E experts, k experts a token, L layers with experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from modelworks.data.batch import Batch
from modelworks.models.base import evaluating
from modelworks.models.blocks.experts import Call, Router, Routing
from modelworks.models.moe import recording
from modelworks.objectives.base import Metrics, Objective, Ratio
from modelworks.parallel.ranks import sum_over_ranks

Scope = Literal["sequence", "batch"]


@dataclass
class Balanced:
    """An objective for a mixture of experts: another one, with what balances the experts.

    Metrics beside the other's: `balance` (1 is even), `router_z`, and `max_load`, the fullest expert's load over the
    mean, averaged over layers and micro-batches. `load_LE` counts the choices of the latest step that `after_step`
    ended. Raises ValueError for a model without experts.
    """

    objective: Objective
    balance: float = 0.01
    z: float = 0.001
    bias_rate: float = 0.001
    scope: Scope = "sequence"
    load_LE: Tensor | None = field(default=None, init=False)
    _counts_LE: Tensor | None = field(default=None, init=False, repr=False)

    def weight(self, batch: Batch) -> Tensor:
        return self.objective.weight(batch)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        with recording(model) as calls:
            loss, metrics = self.objective(model, batch)
        weight = self.weight(batch)
        balance = z = total = loss.new_zeros((), dtype=torch.float32)
        for call in calls:
            w_N = _weights(call, batch)
            balance = balance + (w_N * _mean([balance_loss(call, r, self.scope) for r in call.layers])).sum()
            z = z + (w_N * _mean([r.logits_NE.float().logsumexp(-1).square() for r in call.layers])).sum()
            total = total + w_N.sum()
        counts_LE = choices(calls)
        if torch.is_grad_enabled():  # an evaluation is no part of the step
            self._counts_LE = counts_LE if self._counts_LE is None else self._counts_LE + counts_LE
        # A causal language model's weight is that of its tokens, so this is 1 there.
        share = weight / total.clamp_min(torch.finfo(torch.float32).tiny)
        noted = {
            "balance": Ratio((balance * share).detach(), weight),
            "router_z": Ratio((z * share).detach(), weight),
            "max_load": Ratio(max_load(counts_LE) * weight, weight),
        }
        return loss + share * (self.balance * balance + self.z * z), {**metrics, **noted}

    def after_step(self, model: nn.Module, *, taken: bool) -> None:
        """Move the biases by the load of the step that has just ended, over all its micro-batches and ranks."""
        counts_LE, self._counts_LE = self._counts_LE, None
        if counts_LE is None or not taken:
            return
        self.load_LE = sum_over_ranks(counts_LE)
        routers = [module for module in model.modules() if isinstance(module, Router)]
        for router, counts_E in zip(routers, self.load_LE, strict=True):
            if router.e_score_correction_bias is not None:
                router.e_score_correction_bias += self.bias_rate * (counts_E.mean() - counts_E).sign()


def balance_loss(call: Call, routing: Routing, scope: Scope) -> Tensor:
    """E sum_e f_e p_e of each token, (N,); padding has a value, and no part in f."""
    E, k = routing.scores_NE.shape[1], routing.choice_Nk.shape[1]
    counts_BE = _counts(call, routing)
    if scope == "batch":
        counts_BE = counts_BE.sum(0, keepdim=True).expand_as(counts_BE)
    f_BE = counts_BE / counts_BE.sum(-1, keepdim=True).clamp_min(k)
    p_BTE = (routing.scores_NE / routing.scores_NE.sum(-1, keepdim=True)).view(call.rows, -1, E)
    return E * torch.einsum("be,bte->bt", f_BE, p_BTE).flatten()


def choices(calls: Sequence[Call]) -> Tensor:
    """How often each expert was chosen in each layer, padding aside: counts_LE."""
    return sum(torch.stack([_counts(call, routing).sum(0) for routing in call.layers]) for call in calls)  # type: ignore[return-value]


def max_load(counts_LE: Tensor) -> Tensor:
    """The fullest expert's load over the mean load, averaged over layers: 1 is even, E / k the worst."""
    return (counts_LE.amax(-1) / counts_LE.mean(-1).clamp_min(1e-9)).mean()


@torch.no_grad()
def expert_load(model: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """counts_LE of a model over batches; `bars` shows it."""
    counts: list[Tensor] = []
    with evaluating(model):
        for batch in batches:
            with recording(model) as calls:
                model(
                    batch["input_ids"],
                    positions_BT=batch.get("positions"),
                    attention_mask_BS=batch.get("attention_mask"),
                    last_only=True,
                )
            counts.append(choices(calls))
    return torch.stack(counts).sum(0)


def bars(load_LE: Tensor) -> str:
    """A line a layer, a bar an expert: its load from none to twice the mean or more, then the fullest over the mean."""
    steps = " ▁▂▃▄▅▆▇█"
    lines = []
    for layer, load_E in enumerate(load_LE.float()):
        relative_E = load_E / load_E.mean().clamp_min(1e-9)
        drawn = "".join(steps[min(8, round(4 * float(value)))] for value in relative_E)
        lines.append(f"layer {layer:2}  |{drawn}|  max {float(relative_E.max()):.2f}")
    return "\n".join(lines)


def _mean(layers: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(layers)).mean(0)


def _mask(call: Call, like_N: Tensor) -> Tensor:
    """Which tokens are not padding, (B, T), as float."""
    T = len(like_N) // call.rows
    if call.attention_mask_BS is None:
        return like_N.new_ones((call.rows, T), dtype=torch.float32)
    return (call.attention_mask_BS[:, -T:] > 0).float()


def _weights(call: Call, batch: Batch) -> Tensor:
    """What each token counts: its target's weight, or 1 where the call's tokens are not those of the batch."""
    mask_BT = _mask(call, call.layers[0].scores_NE)
    given_BT = batch.get("weights")
    return (given_BT.float() if given_BT is not None and given_BT.shape == mask_BT.shape else mask_BT).flatten()


def _counts(call: Call, routing: Routing) -> Tensor:
    """How often each row chose each expert, (B, E)."""
    E, k = routing.scores_NE.shape[1], routing.choice_Nk.shape[1]
    mask_BT = _mask(call, routing.scores_NE)
    chosen_BTk = routing.choice_Nk.view(call.rows, -1, k)
    taken_BTk = mask_BT[..., None].expand_as(chosen_BTk)
    return mask_BT.new_zeros(call.rows, E).scatter_add_(1, chosen_BTk.flatten(1), taken_BTk.flatten(1))
