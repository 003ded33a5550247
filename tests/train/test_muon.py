"""Muon against torch's own, and its orthogonal updates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelworks.train.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 40), (2, 64, 16)])
def test_singular_values_become_about_one(shape):
    generator = torch.Generator().manual_seed(0)
    x_BRC = orthogonalise(torch.randn(shape, generator=generator), dtype=torch.float32)
    values = torch.linalg.svdvals(x_BRC)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_steps_are_those_of_torchs_muon():
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 16), (8, 8)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    optimizers = (
        Muon(ours, lr=0.02, weight_decay=0.1, momentum=0.95),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs):  # both iterate in bfloat16
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_a_stack_of_experts_steps_as_its_matrices():
    generator = torch.Generator().manual_seed(0)
    stack = nn.Parameter(torch.randn(3, 4, 6, generator=generator))
    alone = [nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    stack.grad = torch.randn(3, 4, 6, generator=generator)
    for parameter, gradient in zip(alone, stack.grad):
        parameter.grad = gradient.clone()
    for parameters in ([stack], alone):
        Muon(parameters, lr=0.1).step()
    torch.testing.assert_close(stack, torch.stack(list(alone)))


def test_a_gradient_of_zeros_moves_nothing():
    parameter = nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.zeros(4, 4)
    Muon([parameter], lr=0.1).step()
    assert torch.equal(parameter, torch.ones(4, 4))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match="Muon steps matrices"):
        Muon([nn.Parameter(torch.ones(4))], lr=0.1)
