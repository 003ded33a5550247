"""What a step costs in floating-point operations, and what the machine could do at most."""

from __future__ import annotations

import time

import torch
from torch import nn

from modelworks.models.base import LanguageModel

_SIDE, _REPEATS = 2048, 4


def matmul_peak(dtype: torch.dtype, device: str | torch.device = "cpu") -> float:
    """FLOP/s of a product of two large square matrices, the best of a few: takes about a second on two cores."""
    a, b = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        a = a @ b
        if a.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
        a = b
    return 2.0 * _SIDE**3 / best


def flops_per_token(model: nn.Module, seq_len: int) -> float:
    """Forward and backward, of products alone (Chowdhery et al. 2022, appendix B), without what is computed twice.

    6 for each entry of a matrix that is trained and 4 for one that is not, in which a token takes part: of a stack of
    experts only the part that is routed to (`num_experts_per_tok` of the config). Embeddings are looked up, but count
    as the head where they are that. Attention adds 12 times its width and length, half of it as it is causal.
    """
    config = getattr(model, "config", None)
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if isinstance(model, LanguageModel):
        looked_up.discard(id(model.output_embedding()))
    total = 0.0
    for parameter in model.parameters():
        if parameter.dim() < 2 or id(parameter) in looked_up:
            continue
        active = parameter.numel()
        if parameter.dim() == 3 and (routed := getattr(config, "num_experts_per_tok", None)):
            active = active * routed // parameter.shape[0]
        total += (6 if parameter.requires_grad else 4) * active
    if isinstance(model, LanguageModel):
        wide = getattr(config, "n_embd", None) or model.config.num_attention_heads * model.config.head_dim
        total += 12 * model.config.num_hidden_layers * wide * seq_len / 2
    return total
