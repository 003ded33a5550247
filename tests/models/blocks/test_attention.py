from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.models.blocks.attention import Spans, attend, causal_mask, visible

CPU = torch.device("cpu")


def sees(query: int, key: int, document: list[int], window: int | None) -> bool:
    """The rule in words: itself, and every earlier token that is of its document and within the window."""
    return key == query or (
        key < query and document[key] == document[query] and (window is None or query - key < window)
    )


@given(
    document=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    new=st.integers(1, 9),
    window=st.none() | st.integers(1, 10),
)
def test_mask_follows_its_rule(document, new, window):
    S = len(document)
    T = min(new, S)
    mask_B1TS = visible(T, S, torch.tensor([document]), window, CPU)
    expected = [[sees(query, key, document, window) for key in range(S)] for query in range(S - T, S)]
    assert mask_B1TS[0, 0].tolist() == expected


def test_plain_causal_attention_needs_no_mask():
    for T, S, window in ((5, 5, None), (1, 5, None), (5, 5, 5), (1, 5, 9)):
        assert causal_mask(T, S, attention_mask_BS=None, window=window, device=CPU) is None
    for T, S, window in ((2, 5, None), (5, 5, 4), (1, 5, 4)):
        assert causal_mask(T, S, attention_mask_BS=None, window=window, device=CPU) is not None


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize(("T", "S"), [(5, 5), (1, 5), (3, 5)])
def test_attend_is_the_formula(kv_heads, T, S):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 6, T, 8), torch.randn(2, kv_heads, S, 8), torch.randn(2, kv_heads, S, 8)
    mask = causal_mask(T, S, attention_mask_BS=None, window=None, device=CPU)
    wide_k, wide_v = (x.repeat_interleave(6 // kv_heads, dim=1) for x in (k, v))
    visible = torch.arange(S) <= torch.arange(S - T, S)[:, None]
    scores = (0.3 * q @ wide_k.mT).masked_fill(~visible, float("-inf"))
    torch.testing.assert_close(attend(q, k, v, mask, scale=0.3), scores.softmax(-1) @ wide_v)


@given(
    rows=st.integers(1, 3).flatmap(
        lambda size: st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=size, max_size=size)
    ),
    window=st.none() | st.integers(1, 7),
)
def test_whatever_form_a_mask_has_it_gives_the_same(rows, window):
    """Values and gradients, at all that is not padding; documents in one piece or not."""
    mask_BS = torch.tensor(rows)
    B, T = mask_BS.shape
    generator = torch.Generator().manual_seed(0)
    qkv = [torch.randn(B, H, T, 8, generator=generator, requires_grad=True) for H in (4, 2, 2)]
    weight = torch.randn(B, 4, T, 8, generator=generator) * (mask_BS > 0)[:, None, :, None]
    forms = [
        causal_mask(T, T, attention_mask_BS=mask_BS, window=window, device=CPU),
        visible(T, T, mask_BS, window, CPU),
    ]
    found, expected = ((attend(*qkv, mask, scale=0.3) * weight).nan_to_num(9) for mask in forms)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), qkv), torch.autograd.grad(expected.sum(), qkv)):
        torch.testing.assert_close(ours, theirs)


def test_the_fastest_form():
    def form(*rows, window=None):
        return causal_mask(4, 4, attention_mask_BS=torch.tensor(rows), window=window, device=CPU)

    assert form([1, 1, 1, 1], [1, 1, 1, 1]) is None
    packed = form([1, 1, 2, 2], [0, 0, 1, 1])
    assert isinstance(packed, Spans)
    assert (packed.sizes, packed.is_document) == ([2, 2, 2, 2], [True, True, False, True])
    assert isinstance(form([1, 1, 2, 2], window=2), Spans)
    for rule in (form([1, 1, 1, 2], window=2), form([1, 2, 2, 1])):
        assert isinstance(rule, torch.Tensor)
