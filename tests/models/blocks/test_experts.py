from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.models.blocks.experts import Experts, Router, experts_loop, grouped_linear

E, C, INNER = 5, 12, 8


def made_experts(seed: int = 0) -> Experts:
    torch.manual_seed(seed)
    experts = Experts(C, INNER, E, act="silu")
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return experts


def made_router(**more) -> Router:
    router = Router(C, E, 2, **more)
    torch.nn.init.normal_(router.weight)
    return router


@given(st.integers(1, 40), st.integers(1, E), st.integers(0, 10_000))
def test_sorted_experts_equal_the_loop_in_value_and_gradient(N, k, seed):
    """Dropless: however uneven the choice is, every token gets all its experts."""
    generator = torch.Generator().manual_seed(seed)
    experts = made_experts()
    x_NC = torch.randn(N, C, generator=generator, requires_grad=True)
    # Some experts are far likelier than others, and some get nothing.
    popular_E = torch.tensor([1e-6, 1.0, 5.0, 20.0, 0.2])
    choice_Nk = torch.multinomial(popular_E.expand(N, E), k, generator=generator)
    weights_Nk = torch.rand(N, k, generator=generator, requires_grad=True)
    inputs = (x_NC, weights_Nk, experts.gate_up_proj, experts.down_proj)
    fast = experts(x_NC, weights_Nk, choice_Nk)
    plain = experts_loop(x_NC, weights_Nk, choice_Nk, experts.gate_up_proj, experts.down_proj, experts.act)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    seen = torch.randn(N, C, generator=generator)
    for ours, theirs in zip(torch.autograd.grad(fast, inputs, seen), torch.autograd.grad(plain, inputs, seen)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_token_does_not_depend_on_its_neighbours():
    """Capacity limits would drop tokens by what else is in the batch; nothing is dropped here."""
    experts, router = made_experts(), made_router()
    x_NC = torch.randn(1, C).expand(64, C).contiguous()  # all want the same experts
    with torch.no_grad():
        together, alone = experts(x_NC, *router(x_NC)), experts(x_NC[:1], *router(x_NC[:1]))
    torch.testing.assert_close(together, alone.expand(64, C))


def test_grouped_linear_is_each_groups_own_product():
    x_MC, w_EOC = torch.randn(6, C), torch.randn(3, 4, C)
    expected = torch.cat((x_MC[:2] @ w_EOC[0].T, x_MC[2:] @ w_EOC[2].T))
    torch.testing.assert_close(grouped_linear(x_MC, w_EOC, torch.tensor([2, 0, 4])), expected)


def test_normalised_softmax_is_the_softmax_of_the_chosen_logits():
    """Softmax before or after the choice is the same, once the weights are made to sum to 1."""
    torch.manual_seed(1)
    router, x_NC = made_router(), torch.randn(9, C)
    weights_Nk, choice_Nk = router(x_NC)
    best = (x_NC @ router.weight.T).topk(2)
    assert torch.equal(choice_Nk, best.indices)
    torch.testing.assert_close(weights_Nk, best.values.softmax(-1))


def test_weights_that_are_not_normalised_are_the_probabilities():
    torch.manual_seed(1)
    router, x_NC = made_router(normalise=False, scale=2.0), torch.randn(9, C)
    weights_Nk, choice_Nk = router(x_NC)
    torch.testing.assert_close(weights_Nk, 2 * (x_NC @ router.weight.T).softmax(-1).gather(1, choice_Nk))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_the_bias_chooses_and_does_not_weigh(score):
    """Wang et al. 2024, eq. 3: the gate of an expert is its score alone."""
    torch.manual_seed(1)
    router, x_NC = made_router(score=score, bias=True), torch.randn(9, C)
    router.e_score_correction_bias[3] = 10.0
    weights_Nk, choice_Nk = router(x_NC)
    assert (choice_Nk == 3).any(-1).all()
    logits_NE = x_NC @ router.weight.T
    scores_NE = logits_NE.softmax(-1) if score == "softmax" else logits_NE.sigmoid()
    chosen = scores_NE.gather(1, choice_Nk)
    torch.testing.assert_close(weights_Nk, chosen / chosen.sum(-1, keepdim=True))
    assert not router.e_score_correction_bias.requires_grad
