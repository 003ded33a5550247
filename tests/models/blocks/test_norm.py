from __future__ import annotations

import torch

from modelworks.models.blocks.norm import RMSNorm


def test_output_has_unit_rms_times_weight():
    norm = RMSNorm(16, eps=0.0)
    weight = torch.linspace(0.5, 2, 16)
    norm.weight.data.copy_(weight)
    out = norm(torch.randn(3, 16) * 7)
    torch.testing.assert_close((out / weight).square().mean(-1), torch.ones(3))


def test_unit_offset_stores_the_weight_less_one():
    x = torch.randn(3, 16)
    plain, offset = RMSNorm(16, eps=1e-6), RMSNorm(16, eps=1e-6, unit_offset=True)
    torch.testing.assert_close(plain(x), offset(x))  # both new: a factor of 1
    plain.weight.data.fill_(1.5)
    offset.weight.data.fill_(0.5)
    torch.testing.assert_close(plain(x), offset(x))


def test_bfloat16_is_normalised_in_float32():
    """Squares of bfloat16 summed in bfloat16 would lose most of their digits."""
    x = torch.full((1, 4096), 3.0, dtype=torch.bfloat16)
    norm = RMSNorm(4096, eps=1e-6).to(torch.bfloat16)
    out = norm(x)
    assert out.dtype == torch.bfloat16
    assert (out == 1).all()


def test_a_zero_row_is_finite():
    assert RMSNorm(8, eps=1e-6)(torch.zeros(2, 8)).isfinite().all()
