"""From many key-value heads to few: a multi-head model becomes a grouped- or multi-query one.

Each new head is the mean of the heads that its group had (Ainslie et al. 2023, arXiv:2305.13245, section 2.1), which
keeps more of the model than taking one of them. The cache of keys and values shrinks by the same factor. What the model
lost comes back with a little more training, for which the ordinary loop serves: the authors take 5% of the steps of
pre-training, with its recipe.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.models.llama import Attention, Llama


def group_heads(model: Llama, num_key_value_heads: int) -> Llama:
    """A copy of a model of the Llama family with so many key-value heads; 1 is multi-query attention.

    Query heads that shared a key-value head go on sharing one, so a grouped model can be grouped further. The copy
    saves as any model does, with the new number in its config. Raises ConfigError for a number that does not divide
    the present one.
    """
    present = model.config.num_key_value_heads
    if num_key_value_heads < 1 or present % num_key_value_heads:
        raise ConfigError(f"{present} key-value heads cannot be pooled into {num_key_value_heads} groups of one size")
    grouped = copy.deepcopy(model)
    grouped.config = replace(model.config, num_key_value_heads=num_key_value_heads)
    for module in grouped.modules():
        if isinstance(module, Attention):
            for projection in (module.k_proj, module.v_proj):
                _pool(projection, num_key_value_heads, module.head_dim)
    return grouped


@torch.no_grad()
def _pool(projection: nn.Linear, heads: int, head_dim: int) -> None:
    def pooled(rows: Tensor) -> nn.Parameter:
        means = rows.unflatten(0, (heads, -1, head_dim)).float().mean(1)
        return nn.Parameter(means.flatten(0, 1).to(rows.dtype), requires_grad=rows.requires_grad)

    projection.weight = pooled(projection.weight)
    if projection.bias is not None:
        projection.bias = pooled(projection.bias)
    projection.out_features = len(projection.weight)
