"""Causal attention over a key-value cache: the cache's contract, the mask, and the call to torch's fused kernel.

Shapes: B batch, H query heads, K key-value heads, T new tokens, S = cached + T tokens, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Documents that each attend to themselves alone, in rows laid end to end: how long each piece is, and whether it
    is a document or padding."""

    sizes: list[int]
    is_document: list[bool]


Mask = Tensor | Spans | None
"""What `attend` takes: which keys each token sees, as a bool mask_B1TS or as spans; None is plain causal attention."""


def causal_mask(T: int, S: int, *, attention_mask_BS: Tensor | None, window: int | None, device: torch.device) -> Mask:
    """Which of the S keys each of the last T tokens sees, in the form that is computed fastest.

    `attention_mask_BS` is 0 for padding and otherwise the number of a token's document, 1 where there is only one:
    a token sees those with its own number. `window` is how many tokens a token sees, itself included.
    """
    if attention_mask_BS is None:
        return None if (window is None or window >= S) and T in (1, S) else visible(T, S, None, window, device)
    if T == S and device.type == "cpu":  # elsewhere many small calls are slower than one, and asking for sizes waits
        spans = _spans(attention_mask_BS)
        if spans is not None and (window is None or window >= max(spans.sizes)):
            return spans if len(spans.sizes) > len(attention_mask_BS) else None
    return visible(T, S, attention_mask_BS, window, device)


def visible(T: int, S: int, attention_mask_BS: Tensor | None, window: int | None, device: torch.device) -> Tensor:
    """The rule of `causal_mask` as a bool mask_B1TS; B is 1 where all rows are alike.

    Every token sees itself, padding too: a row without any key would make softmax, and its gradient, NaN
    (pytorch#103749), and what padding computes is seen by no token.
    """
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


def _spans(attention_mask_BS: Tensor) -> Spans | None:
    """The rows' documents and paddings; None where a document is not of one piece."""
    document_BS = attention_mask_BS.long()
    count = int(document_BS.max()) + 1
    # Numbered anew, so that no two rows share a number.
    numbered_BS = document_BS + count * torch.arange(len(document_BS))[:, None]
    numbers, sizes = torch.unique_consecutive(numbered_BS, return_counts=True)
    is_document = numbers % count != 0
    documents = numbers[is_document]
    if len(documents.unique()) < len(documents):
        return None
    return Spans(sizes.tolist(), is_document.tolist())


def attend(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Mask, *, scale: float, dropout: float = 0.0) -> Tensor:
    """softmax(scale q k' + mask) v (Vaswani et al. 2017, eq. 1) as out_BHTD; H may be a multiple of K (GQA, MQA)."""
    if isinstance(mask, Spans):
        return _attend_apart(q_BHTD, k_BKSD, v_BKSD, mask, scale=scale, dropout=dropout)
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BKSD,
        v_BKSD,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None and q_BHTD.shape[2] > 1,
        scale=scale,
        enable_gqa=q_BHTD.shape[1] != k_BKSD.shape[1],
    )


def _attend_apart(
    q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, spans: Spans, *, scale: float, dropout: float
) -> Tensor:
    """Document by document: nothing is computed for pairs of tokens that do not see each other. Padding gives zeros."""
    B, _, T, _ = q_BHTD.shape
    # N tokens of all rows; `split`, whose gradient is one `cat`.
    q, k, v = (x.transpose(0, 1).flatten(1, 2)[None].split(spans.sizes, dim=2) for x in (q_BHTD, k_BKTD, v_BKTD))
    out_1HND = torch.cat(
        [
            attend(q[at], k[at], v[at], None, scale=scale, dropout=dropout) if is_document else torch.zeros_like(q[at])
            for at, is_document in enumerate(spans.is_document)
        ],
        dim=2,
    )
    return out_1HND[0].unflatten(1, (B, T)).transpose(0, 1)
