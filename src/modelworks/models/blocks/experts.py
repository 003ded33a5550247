"""Mixture of experts: a router that chooses k of E gated perceptrons for each token, and the experts themselves.

No token is dropped: the rows of each expert are sorted together and multiplied with its matrix, however many they are
(Gale et al. 2022, arXiv:2211.15841, in spirit). `experts_loop` is the plain definition that `Experts` equals.

Shapes: N tokens, C hidden size, E experts, k experts a token, M = N k rows sorted by expert, F an expert's inner size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelworks.models.blocks.mlp import GatedMLP, activation


class Routing(NamedTuple):
    """What one router made of its tokens, with its graph."""

    logits_NE: Tensor
    scores_NE: Tensor
    """Softmax or sigmoid of the logits, in float32: what gates and the balance loss are made of."""
    choice_Nk: Tensor
    """The experts chosen, by number."""


@dataclass
class Call:
    """One call of a model: its padding mask, and the routing of each mixture layer in turn."""

    rows: int
    attention_mask_BS: Tensor | None
    layers: list[Routing] = field(default_factory=list)


class Router(nn.Module):
    """The k experts of each token, and the weight of each.

    `score` "softmax" is Mixtral's and Qwen's (the k largest of softmax(logits)), "sigmoid" DeepSeek-V3's
    (arXiv:2412.19437, eq. 13 to 16). With `normalise` the k weights sum to 1, which with softmax is also what a softmax
    over the k largest logits alone gives. `scale` multiplies the weights. With `bias`, each expert has a number that is
    added for the choice alone and that no gradient trains: loss-free balancing moves it (Wang et al. 2024,
    arXiv:2408.15664).
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        k: int,
        *,
        score: str = "softmax",
        normalise: bool = True,
        scale: float = 1.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.k, self.score, self.normalise, self.scale = k, score, normalise, scale
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.e_score_correction_bias: Tensor | None
        self.register_buffer("e_score_correction_bias", torch.zeros(num_experts) if bias else None)
        self.calls: list[Call] | None = None
        """Where the routing of the present call is noted, while someone records (`models.moe.recording`)."""

    def forward(self, x_NC: Tensor) -> tuple[Tensor, Tensor]:
        """weights_Nk in float32, and choice_Nk."""
        if self.score == "sigmoid":
            logits_NE = F.linear(x_NC.float(), self.weight.float())
            scores_NE = logits_NE.sigmoid()
        else:
            logits_NE = F.linear(x_NC, self.weight)
            scores_NE = logits_NE.softmax(-1, dtype=torch.float32)
        bias_E = self.e_score_correction_bias
        choice_Nk = (scores_NE if bias_E is None else scores_NE + bias_E).topk(self.k).indices
        weights_Nk = scores_NE.gather(1, choice_Nk)
        if self.normalise:
            # What DeepSeek-V3 adds for scores that are all zero changes no other.
            weights_Nk = weights_Nk / (weights_Nk.sum(-1, keepdim=True) + 1e-20)
        if self.calls is not None:
            self.calls[-1].layers.append(Routing(logits_NE, scores_NE, choice_Nk))
        return weights_Nk * self.scale, choice_Nk


class Experts(nn.Module):
    """E gated perceptrons without biases, their matrices stacked: `gate_up_proj` (E, 2F, C), `down_proj` (E, C, F)."""

    def __init__(self, hidden_size: int, intermediate_size: int, num_experts: int, *, act: str) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        self.act = activation(act)

    def forward(self, x_NC: Tensor, weights_Nk: Tensor, choice_Nk: Tensor) -> Tensor:
        """The weighted sum of what the chosen experts make of each token, (N, C)."""
        N, k = choice_Nk.shape
        order_M = choice_Nk.flatten().argsort(stable=True)
        counts_E = torch.bincount(choice_Nk.flatten(), minlength=len(self.down_proj))
        x_MC = x_NC.index_select(0, order_M // k)
        gate_MF, up_MF = grouped_linear(x_MC, self.gate_up_proj, counts_E).chunk(2, dim=-1)
        y_MC = grouped_linear(self.act(gate_MF) * up_MF, self.down_proj, counts_E)
        y_NkC = y_MC.index_select(0, order_M.argsort()).view(N, k, -1)
        return (y_NkC * weights_Nk[..., None]).sum(1).to(x_NC.dtype)


def grouped_linear(x_MC: Tensor, w_EOC: Tensor, counts_E: Tensor) -> Tensor:
    """The first counts[0] rows times w[0]', the next counts[1] rows times w[1]', and so on, as (M, O)."""
    if x_MC.is_cuda and x_MC.dtype == torch.bfloat16:
        return F.grouped_mm(x_MC, w_EOC.mT, offs=counts_E.cumsum(0, dtype=torch.int32))
    groups = zip(x_MC.split(counts_E.tolist()), w_EOC.unbind(), strict=True)
    return torch.cat([F.linear(x, w) for x, w in groups if len(x)])


def experts_loop(
    x_NC: Tensor,
    weights_Nk: Tensor,
    choice_Nk: Tensor,
    gate_up_E2FC: Tensor,
    down_ECF: Tensor,
    act: Callable[[Tensor], Tensor],
) -> Tensor:
    """What `Experts` computes, as it is defined: expert by expert, over the tokens that chose it."""
    out_NC = torch.zeros_like(x_NC, dtype=torch.float32)
    for expert in range(len(down_ECF)):
        token, place = (choice_Nk == expert).nonzero(as_tuple=True)
        gate, up = F.linear(x_NC[token], gate_up_E2FC[expert]).chunk(2, dim=-1)
        y = F.linear(act(gate) * up, down_ECF[expert])
        out_NC = out_NC.index_add(0, token, y * weights_Nk[token, place, None])
    return out_NC.to(x_NC.dtype)


class MixtureMLP(nn.Module):
    """In a layer's place of its perceptron: routed experts, and `shared` ones that see every token.

    With `gated` a token's share of the shared experts is the sigmoid of a logit of its own (Qwen2-MoE).
    """

    def __init__(
        self, router: Router, experts: Experts, shared: GatedMLP | None, *, gated: bool, hidden_size: int
    ) -> None:
        super().__init__()
        self.gate = router
        self.experts = experts
        if shared is not None:
            self.shared_expert = shared
        if gated:
            self.shared_expert_gate = nn.Linear(hidden_size, 1, bias=False)
        self.has_shared, self.gated = shared is not None, gated

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_NC = x_BTC.flatten(0, 1)
        out_NC = self.experts(x_NC, *self.gate(x_NC))
        if self.has_shared:
            shared_NC = self.shared_expert(x_NC)
            out_NC = out_NC + (self.shared_expert_gate(x_NC).sigmoid() * shared_NC if self.gated else shared_NC)
        return out_NC.view_as(x_BTC)
