"""Causal attention over a key-value cache: the cache's contract, the mask, and the call to torch's fused kernel.

Shapes: B batch, H query heads, K key-value heads, T new tokens, S = cached + T tokens, D head size.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class KVCache(Protocol):
    """Keys and values of the tokens that a model has seen. The engine implements it; a model only uses it."""

    @property
    def length(self) -> int:
        """Tokens held for every row before this forward pass, padding included."""
        ...

    def update(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values; return all of that layer's, k_BKSD and v_BKSD."""
        ...


def causal_mask(
    T: int, S: int, *, attention_mask_BS: Tensor | None, window: int | None, device: torch.device
) -> Tensor | None:
    """Which of the S keys each of the last T tokens sees: a bool mask_B1TS (B is 1 where all rows are alike).

    `None` stands for plain causal attention, for which `attend` takes the faster path without a mask.
    `attention_mask_BS` is 0 for padding and otherwise the number of a token's document, 1 where there is only one:
    a token sees those with its own number. `window` is how many tokens a token sees, itself included.
    Every token sees itself, padding too: a row without any key would make softmax, and its gradient, NaN
    (pytorch#103749), and what padding computes is seen by no token.
    """
    sees_all = window is None or window >= S
    if attention_mask_BS is None and sees_all and T in (1, S):
        return None
    key_S = torch.arange(S, device=device)
    query_T1 = key_S[S - T :, None]
    mask = key_S <= query_T1
    if window is not None:
        mask = mask & (key_S > query_T1 - window)
    mask = mask[None, None]
    if attention_mask_BS is not None:
        document_BS = attention_mask_BS.to(device=device, dtype=torch.long)
        mask = mask & (document_BS[:, None, None, :] == document_BS[:, None, S - T :, None])
        mask = mask | (key_S == query_T1)
    return mask


def attend(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_B1TS: Tensor | None, *, scale: float, dropout: float = 0.0
) -> Tensor:
    """softmax(scale q k' + mask) v (Vaswani et al. 2017, eq. 1) as out_BHTD; H may be a multiple of K (GQA, MQA)."""
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BKSD,
        v_BKSD,
        attn_mask=mask_B1TS,
        dropout_p=dropout,
        is_causal=mask_B1TS is None and q_BHTD.shape[2] > 1,
        scale=scale,
        enable_gqa=q_BHTD.shape[1] != k_BKSD.shape[1],
    )
