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


_PARENT_BITS = 32
DOCUMENTS = (1 << _PARENT_BITS) - 1
"""The largest number of a document."""


def continuing(document: int, parent: int) -> int:
    """What an attention mask has for tokens of a document that goes on from another one in its row.

    They see that one's tokens as well as their own, so that answers to one prompt need it only once.
    """
    return document | parent << _PARENT_BITS


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Documents that each attend to themselves alone, or also to one that they continue, in rows laid end to end."""

    sizes: list[int]
    is_document: list[bool]
    """Whether a piece is a document or padding."""
    parents: list[int | None]
    """Which piece each one continues."""
    masks: list[Tensor | None]
    """Where there is a parent, which of its tokens, then of its own, each token of a piece sees."""


Mask = Tensor | Spans | None
"""What `attend` takes: which keys each token sees, as a bool mask_B1TS or as spans; None is plain causal attention."""


def causal_mask(T: int, S: int, *, attention_mask_BS: Tensor | None, window: int | None, device: torch.device) -> Mask:
    """Which of the S keys each of the last T tokens sees, in the form that is computed fastest.

    `attention_mask_BS` is 0 for padding and otherwise the number of a token's document, 1 where there is only one: a
    token sees those with its own number, and those of the document that it continues (see `continuing`). `window` is
    how many tokens a token sees, itself included.
    """
    if attention_mask_BS is None:
        return None if (window is None or window >= S) and T in (1, S) else visible(T, S, None, window, device)
    if T == S and device.type == "cpu":  # elsewhere many small calls are slower than one, and asking for sizes waits
        spans = _spans(attention_mask_BS)
        if spans is not None and (window is None or window >= _longest(spans)):
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
        document_BS, parent_BS = _numbers(attention_mask_BS.to(device))
        if window is not None and window < S and parent_BS.any():
            raise ValueError(f"documents that continue others need a window of {S} tokens, the row's; it is {window}")
        keys_B11S = document_BS[:, None, None, :]
        seen = keys_B11S == document_BS[:, None, S - T :, None]
        if parent_BS.any():
            parents_B1T1 = parent_BS[:, None, S - T :, None]
            seen = seen | ((keys_B11S == parents_B1T1) & (parents_B1T1 > 0))
        mask = (mask & seen) | (key_S == query_T1)
    return mask


def _numbers(attention_mask_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's document, and the one that it continues or 0."""
    mask_BS = attention_mask_BS.long()
    return mask_BS & DOCUMENTS, mask_BS >> _PARENT_BITS


def _spans(attention_mask_BS: Tensor) -> Spans | None:
    """The rows' documents and paddings; None where one is not of one piece, or what it continues is not there."""
    numbers_2N = torch.stack([part.flatten() for part in _numbers(attention_mask_BS)])
    S, N = attention_mask_BS.shape[1], numbers_2N.shape[1]
    begins_N = (numbers_2N != numbers_2N.roll(1, 1)).any(0)
    begins_N[::S] = True
    begins = begins_N.nonzero()[:, 0]
    documents, parents = numbers_2N[:, begins].tolist()
    rows = (begins // S).tolist()
    sizes = begins.diff(append=begins.new_tensor([N])).tolist()
    pieces = {(row, number): at for at, (row, number) in enumerate(zip(rows, documents)) if number}
    continued = [pieces.get((row, parent)) if parent else None for row, parent in zip(rows, parents)]
    is_missing = any((parent > 0) != (piece is not None) for parent, piece in zip(parents, continued))
    if is_missing or len(pieces) < sum(number > 0 for number in documents):
        return None
    masks = [
        None if piece is None else _continued_mask(size, sizes[piece] + size, attention_mask_BS.device)
        for size, piece in zip(sizes, continued)
    ]
    return Spans(sizes, [number > 0 for number in documents], continued, masks)


def _continued_mask(T: int, S: int, device: torch.device) -> Tensor:
    return torch.ones((T, S), dtype=torch.bool, device=device).tril(S - T)


def _longest(spans: Spans) -> int:
    """The most tokens from the first that one sees to itself."""
    return max(size + (0 if at is None else spans.sizes[at]) for size, at in zip(spans.sizes, spans.parents))


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

    def piece(at: int) -> Tensor:
        if not spans.is_document[at]:
            return torch.zeros_like(q[at])
        keys, values, mask = k[at], v[at], spans.masks[at]
        if (parent := spans.parents[at]) is not None:
            keys, values = torch.cat([k[parent], keys], 2), torch.cat([v[parent], values], 2)
        return attend(q[at], keys, values, mask, scale=scale, dropout=dropout)

    out_1HND = torch.cat([piece(at) for at in range(len(q))], dim=2)
    return out_1HND[0].unflatten(1, (B, T)).transpose(0, 1)
