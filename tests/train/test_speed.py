"""FLOPs of a token, against torch's own counting, and the machine's peak."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modelworks.train.speed import flops_per_token, matmul_peak


def test_products_are_those_that_torch_counts(make_model):
    model, T = make_model(n_embd=32, n_inner=64), 16
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, T, dtype=torch.long)).sum().backward()
    attention = 12 * 2 * 32 * T / 2  # which the counter does not know on a CPU
    counted = sum(counter.get_flop_counts()["Global"].values()) / (2 * T)
    assert flops_per_token(model, T) - attention == pytest.approx(counted, rel=1e-6)


def test_what_is_frozen_needs_no_gradient_of_its_own(make_model):
    model = make_model()
    whole = flops_per_token(model, 8)
    matrix = model.transformer.h[0].mlp.c_fc.weight
    matrix.requires_grad_(False)
    assert whole - flops_per_token(model, 8) == 2 * matrix.numel()


def test_an_untied_head_counts_and_its_embedding_does_not(make_model):
    tied, untied = make_model(), make_model(tie_word_embeddings=False)
    assert flops_per_token(tied, 8) == flops_per_token(untied, 8)


def test_the_peak_is_a_rate():
    assert matmul_peak(torch.float32) > 1e8
