"""The memory-frugal cross-entropy against the reference, and against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from modelworks.kernels.cross_entropy import cross_entropy, linear_cross_entropy, linear_logprobs


def case(N, C, V, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    x_NC = (torch.randn(N, C, generator=generator) * scale).requires_grad_()
    w_VC = (torch.randn(V, C, generator=generator) * C**-0.5).requires_grad_()
    targets_N = torch.randint(0, V, (N,), generator=generator)
    weights_N = torch.randint(0, 4, (N,), generator=generator) / 2  # a quarter of them 0
    return x_NC, w_VC, targets_N, weights_N


@given(
    N=st.integers(0, 12),
    C=st.integers(1, 9),
    V=st.integers(1, 40),
    chunk=st.integers(1, 14),
    z_loss=st.sampled_from([0.0, 1e-4, 0.1]),
    seed=st.integers(0, 2**31),
)
def test_it_equals_the_reference_with_its_gradients(N, C, V, chunk, z_loss, seed):
    x_NC, w_VC, targets_N, weights_N = case(N, C, V, seed)
    frugal = linear_cross_entropy(x_NC, w_VC, targets_N, weights_N, z_loss=z_loss, chunk=chunk)
    whole = cross_entropy(x_NC @ w_VC.T, targets_N, weights_N, z_loss=z_loss)
    gradients = torch.autograd.grad(frugal.loss / 7, (x_NC, w_VC))
    expected = torch.autograd.grad(whole.loss / 7, (x_NC, w_VC))
    # 1e-6 a token: the sums are over up to 12 of weight up to 1.5.
    torch.testing.assert_close(frugal, whole, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-6)


def test_the_reference_is_torchs_own():
    x_NC, w_VC, targets_N, weights_N = case(16, 8, 50, 0)
    logits_NV = x_NC @ w_VC.T
    expected = (F.cross_entropy(logits_NV, targets_N, reduction="none") * weights_N).sum()
    torch.testing.assert_close(cross_entropy(logits_NV, targets_N, weights_N).nll, expected.detach())


def test_z_loss_is_the_square_of_log_z():
    logits_NV = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    losses = cross_entropy(logits_NV, torch.tensor([0, 1]), torch.tensor([1.0, 0.5]), z_loss=0.1)
    log_two = torch.tensor(2.0).log()
    torch.testing.assert_close(losses.z, log_two**2 + 0.5 * (1 + log_two) ** 2)
    torch.testing.assert_close(losses.loss, 1.5 * log_two + 0.1 * losses.z)


def test_a_target_whose_probability_underflows_still_has_a_finite_loss():
    x_NC = torch.tensor([[300.0], [1.0]], requires_grad=True)
    w_VC = torch.tensor([[1.0], [-1.0]])
    losses = linear_cross_entropy(x_NC, w_VC, torch.tensor([1, 1]), torch.ones(2))
    torch.testing.assert_close(losses.nll, 600 + torch.tensor(2.0).exp().add(1).log())


def test_targets_without_weight_may_be_anything_and_learn_nothing():
    x_NC, w_VC, targets_N, _ = case(3, 4, 5, 0)
    targets_N[1] = -100
    losses = linear_cross_entropy(x_NC, w_VC, targets_N, torch.tensor([1.0, 0.0, 1.0]))
    losses.loss.backward()
    assert torch.equal(x_NC.grad[1], torch.zeros(4))
    assert losses.nll.isfinite()


def test_a_frozen_head_gets_no_gradient_and_evaluation_no_graph():
    x_NC, w_VC, targets_N, weights_N = case(4, 4, 5, 0)
    linear_cross_entropy(x_NC, w_VC.detach(), targets_N, weights_N).loss.backward()
    assert x_NC.grad is not None
    with torch.no_grad():
        assert not linear_cross_entropy(x_NC, w_VC, targets_N, weights_N).loss.requires_grad


@pytest.mark.parametrize("dtype", ["weights", "autocast"])
def test_in_bfloat16_the_loss_is_that_of_the_rounded_logits(dtype):
    x_NC, w_VC, targets_N, weights_N = case(64, 32, 1000, 0, scale=3.0)
    # What the products in bfloat16 give, taken on in float32.
    whole = cross_entropy(x_NC.bfloat16() @ w_VC.bfloat16().T, targets_N, weights_N)
    if dtype == "weights":
        frugal = linear_cross_entropy(x_NC.bfloat16(), w_VC.bfloat16(), targets_N, weights_N, chunk=16)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            frugal = linear_cross_entropy(x_NC, w_VC, targets_N, weights_N, chunk=16)
    torch.testing.assert_close(frugal.nll, whole.nll, atol=0, rtol=1e-6)
    (gradient,) = torch.autograd.grad(frugal.loss, w_VC)
    (expected,) = torch.autograd.grad(cross_entropy(x_NC @ w_VC.T, targets_N, weights_N).loss, w_VC)
    assert gradient.dtype == torch.float32
    assert (gradient - expected).norm() < 0.01 * expected.norm()


class Largest(TorchDispatchMode):
    """The most elements that any tensor had which an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


def test_no_more_than_one_chunk_of_logits_stands():
    N, C, V, chunk = 256, 8, 3000, 16
    x_NC, w_VC, targets_N, weights_N = case(N, C, V, 0)
    with Largest() as frugal:
        linear_cross_entropy(x_NC, w_VC, targets_N, weights_N, chunk=chunk).loss.backward()
    with Largest() as whole:
        cross_entropy(x_NC @ w_VC.T, targets_N, weights_N).loss.backward()
    assert frugal.numel == chunk * V
    assert whole.numel == N * V


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match="disagree"):
        linear_cross_entropy(torch.ones(3, 4), torch.ones(5, 4), torch.ones(2).long(), torch.ones(3))


# --- log-probabilities of tokens --------------------------------------------------------------------------------------


@given(
    N=st.integers(0, 12),
    V=st.integers(1, 40),
    chunk=st.integers(1, 14),
    temperature=st.sampled_from([1.0, 0.7, 2.0]),
    learns_head=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_logprobs_and_their_gradients_are_those_of_whole_logits(N, V, chunk, temperature, learns_head, seed):
    x_NC, w_VC, targets_N, weights_N = case(N, 5, V, seed)
    w_VC.requires_grad_(learns_head)
    leaves = [x_NC, w_VC] if learns_head else [x_NC]
    found = linear_logprobs(x_NC, w_VC, targets_N, weights_N, temperature=temperature, entropy=True, chunk=chunk)
    whole_NV = (x_NC @ w_VC.T / temperature).log_softmax(-1)
    counts_N = (weights_N != 0).float()
    expected_N = whole_NV.gather(-1, targets_N[:, None])[:, 0] * counts_N
    torch.testing.assert_close(found.logprobs_N, expected_N, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found.entropies_N, (-(whole_NV.exp() * whole_NV).sum(-1) * counts_N).detach(), atol=1e-5, rtol=1e-5
    )
    # A loss that is no sum: what a token counts depends on the others.
    gradients = torch.autograd.grad(found.logprobs_N.sum().sigmoid() + found.logprobs_N.square().sum(), leaves)
    expected = torch.autograd.grad(expected_N.sum().sigmoid() + expected_N.square().sum(), leaves)
    torch.testing.assert_close(gradients, expected, atol=1e-4, rtol=1e-4)


def test_logprobs_of_a_model_that_does_not_learn_need_no_second_product():
    x_NC, w_VC, targets_N, weights_N = case(8, 4, 30, 3)
    with torch.no_grad():
        found = linear_logprobs(x_NC, w_VC, targets_N, weights_N)
    assert not found.logprobs_N.requires_grad
    assert found.entropies_N is None


def test_a_very_unlikely_token_has_a_finite_logprob_at_any_temperature():
    x_NC, w_VC = torch.tensor([[300.0]]), torch.tensor([[1.0], [-1.0]])
    found = linear_logprobs(x_NC, w_VC, torch.tensor([1]), torch.ones(1), temperature=2.0)
    torch.testing.assert_close(found.logprobs_N, torch.tensor([-300.0]))
