from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.models.blocks.attention import attend, causal_mask

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
    mask_BS = torch.tensor([document])
    mask_B1TS = causal_mask(T, S, attention_mask_BS=mask_BS, window=window, device=CPU)
    expected = [[sees(query, key, document, window) for key in range(S)] for query in range(S - T, S)]
    assert mask_B1TS is not None
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
