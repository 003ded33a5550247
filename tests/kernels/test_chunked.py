from __future__ import annotations

import pytest
import torch

from modelworks.kernels.chunked import chunked_sum

N, C, V = 11, 4, 7


@pytest.mark.parametrize("chunk", [1, 3, 11, 50])
def test_sums_and_gradients_are_those_of_the_whole(chunk):
    torch.manual_seed(0)
    x_NC, w_VC, unused = (torch.randn(*shape, requires_grad=True) for shape in ((N, C), (V, C), (2, 2)))
    targets_N = torch.randint(0, V, (N,))
    widths = []

    def terms(rows, x_nC, shared):
        logprobs_nV = (x_nC @ shared[0].T).log_softmax(-1)
        widths.append(len(logprobs_nV))
        nll_n = -logprobs_nV.gather(-1, targets_N[rows, None])[:, 0]
        return torch.stack((nll_n.sum(), logprobs_nV.exp().square().sum()))

    whole_M = terms(slice(None), x_NC, [w_VC])
    widths.clear()
    sums_M = chunked_sum(terms, x_NC, [w_VC, unused], chunk)
    torch.testing.assert_close(sums_M, whole_M)
    assert max(widths) <= chunk
    expected = torch.autograd.grad(whole_M[0] * 2.5, (x_NC, w_VC))
    found = torch.autograd.grad(sums_M[0] * 2.5, (x_NC, w_VC))
    torch.testing.assert_close(found, expected)


def test_no_rows_and_no_gradient():
    def terms(rows, x_nC, shared):
        return (x_nC @ shared[0].T).sum()[None]

    w_VC = torch.randn(V, C, requires_grad=True)
    sums_M = chunked_sum(terms, torch.randn(0, C, requires_grad=True), [w_VC], 4)
    assert sums_M.tolist() == [0]
    sums_M[0].backward()
    assert not w_VC.grad.any()
    with torch.no_grad():
        assert not chunked_sum(terms, torch.randn(3, C), [w_VC], 2).requires_grad


def test_a_part_that_is_frozen_gets_no_gradient():
    def terms(rows, x_nC, shared):
        return (x_nC @ shared[0].T).square().sum()[None]

    x_NC, w_VC = torch.randn(N, C, requires_grad=True), torch.randn(V, C)
    chunked_sum(terms, x_NC, [w_VC], 3)[0].backward()
    torch.testing.assert_close(x_NC.grad, 2 * x_NC.detach() @ w_VC.T @ w_VC)
    assert w_VC.grad is None
