"""A linear layer over packed weights against torch's over the same weights de-quantised."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelworks.adapt.packed import PackedLinear, packed_bytes
from modelworks.adapt.qlora import nf4_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cols", [64, 96, 48, 7])
def test_values_and_gradients(cols: int, dtype: torch.dtype) -> None:
    """Blocks run on from row to row, so a row may be of any length."""
    torch.manual_seed(0)
    bias = nn.Parameter(torch.randn(5))
    linear = nf4_linear(torch.randn(5, cols), bias)
    w_RC = linear.matrix(torch.float32).clone()
    assert torch.equal(linear.matrix(dtype), w_RC.to(dtype))
    x = torch.randn(2, 3, cols, dtype=dtype, requires_grad=True)
    found, expected = linear(x), F.linear(x, w_RC.to(dtype), bias.to(dtype))
    assert torch.equal(found, expected)
    inputs = (x, bias)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), inputs)):
        torch.testing.assert_close(ours, theirs)


def test_layers_share_their_scratch_and_not_their_weights() -> None:
    """The backward pass asks for each anew, in the other order."""
    torch.manual_seed(0)
    layers = [nf4_linear(torch.randn(64, 64)) for _ in range(3)]
    matrices = [layer.matrix(torch.float32).clone() for layer in layers]
    x = torch.randn(4, 64, requires_grad=True)
    y, expected = x, x
    for layer, matrix in zip(layers, matrices):
        y, expected = layer(y), F.linear(expected, matrix)
    assert torch.equal(y, expected)
    (found,), (wanted,) = torch.autograd.grad(y.sum(), x), torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(found, wanted)


def test_it_is_small_and_no_part_of_the_state() -> None:
    linear = nf4_linear(torch.randn(256, 256))
    assert packed_bytes(nn.Sequential(linear, nn.ReLU())) == 256 * 256 // 64 * 33 + 4 * 4
    assert list(linear.state_dict()) == []
    assert "NF4" in repr(linear)
    assert isinstance(linear, PackedLinear)
