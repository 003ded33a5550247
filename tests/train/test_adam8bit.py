"""8-bit moments: the code, its rounding, the trajectory beside float32's, and the memory."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modelworks.train.adam8bit import BLOCK, AdamW8bit, code, dequantise, quantise


@pytest.mark.parametrize("signed", [True, False])
def test_the_code_has_256_values_denser_towards_zero(signed):
    values = code(signed=signed)
    assert len(values.unique()) == 256
    assert values.max() == 1
    assert values.abs().min() == 0
    assert values.min() == pytest.approx(-0.993, abs=1e-3) if signed else values.min() == 0
    positive = values[values > 0]
    assert positive.min() < 1e-6
    gaps = positive.diff()
    assert gaps[:5].max() < 5e-5
    assert gaps[-1] < 0.015


@given(seed=st.integers(0, 2**31), size=st.integers(1, 5000), magnitude=st.floats(1e-20, 1e10))
def test_rounding_is_to_the_nearest_value(seed, size, magnitude):
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * magnitude
    rounded = dequantise(quantise(values, signed=True), signed=True, like=values)
    for at in range(0, size, BLOCK):
        block, got = values[at : at + BLOCK], rounded[at : at + BLOCK]
        largest = block.abs().max()
        nearest = (code(signed=True) * largest - block[:, None]).abs().amin(1)
        torch.testing.assert_close((got - block).abs(), nearest, atol=float(largest) * 1e-6, rtol=0)


def test_zeros_stay_zeros():
    zeros = torch.zeros(10)
    assert torch.equal(dequantise(quantise(zeros, signed=False), signed=False, like=zeros), zeros)


def problem(seed=0):
    """Regression on a small network whose inputs differ in scale by a thousand, as tokens do in frequency."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))
    x = torch.randn(256, 64, generator=generator) * torch.logspace(-3, 0, 64)
    y = torch.randn(256, 64, generator=generator)
    return net, x, y


def run(net, x, y, optimizer, steps=60):
    losses = []
    for _ in range(steps):
        loss = (net(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_its_trajectory_is_close_to_that_of_float32():
    net, x, y = problem()
    other = copy.deepcopy(net)
    settings = {"lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    eight, full = AdamW8bit(net.parameters(), **settings), torch.optim.AdamW(other.parameters(), **settings)
    ours, theirs = run(net, x, y, eight), run(other, x, y, full)
    assert ours[-1] < 0.9 * ours[0]
    assert max(abs(a - b) / b for a, b in zip(ours, theirs)) < 0.01


def test_small_tensors_step_exactly_as_torchs_adamw():
    one = nn.Parameter(torch.randn(100))
    other = nn.Parameter(one.detach().clone())
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizers = AdamW8bit([one], **settings), torch.optim.AdamW([other], **settings)
    for step in range(5):
        one.grad = torch.randn(100, generator=torch.Generator().manual_seed(step))
        other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(one, other)


def test_a_rare_row_in_one_block_with_frequent_ones_is_not_thrown_away():
    """Its second moment is 1e-10 of the block's largest, which no byte tells from 0."""
    parameter = nn.Parameter(torch.zeros(2, BLOCK))
    optimizer = AdamW8bit([parameter], lr=1e-2)
    for step in range(20):
        gradient = torch.full((2, BLOCK), 1.0)
        gradient[:, ::2] = 1e-5 if step == 0 else 0.0
        parameter.grad = gradient
        optimizer.step()
    assert parameter.abs().max() < 0.5


def test_its_states_take_about_a_quarter_of_the_memory():
    parameter = nn.Parameter(torch.randn(512, 512))
    parameter.grad = torch.randn(512, 512)
    optimizer = AdamW8bit([parameter], lr=1e-3)
    optimizer.step()
    held = sum(value.nbytes for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor))
    assert held <= 0.2505 * 2 * parameter.nbytes


def test_it_goes_on_bit_for_bit_from_its_state():
    (net, x, y), (same, *_) = problem(), problem()
    optimizers = AdamW8bit(net.parameters(), lr=3e-3), AdamW8bit(same.parameters(), lr=3e-3)
    run(net, x, y, optimizers[0], steps=3)
    same.load_state_dict(net.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    kinds = {
        value.dtype for state in optimizers[1].state.values() for value in state.values() if torch.is_tensor(value)
    }
    assert kinds == {torch.uint8, torch.float32}
    assert run(net, x, y, optimizers[0], steps=3) == run(same, x, y, optimizers[1], steps=3)
