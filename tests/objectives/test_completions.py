from __future__ import annotations

import numpy as np
import torch

from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.objectives.completions import by_completion, completions


def test_dropout_is_off_and_the_mode_stays():
    """A policy that has not moved equals its reference, whatever its dropout (trl#744)."""
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2, n_inner=16)).train()
    ids = np.array([3, 4, 5])
    row = Branches(np.array([1, 2]), (Branch(ids, np.ones(3, np.float32)), Branch(ids[:1], np.ones(1, np.float32))))
    batch = branch_batch([row], pad_id=0)
    first, second = (completions(model, batch, 2).logps_S for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert first.requires_grad


def test_weights_of_tokens_count_in_sums_and_means():
    batch = {"sequences": torch.tensor([[-1, 0, 0, 1]])}
    assert by_completion(torch.tensor([9.0, 1.0, 2.0, 4.0]), batch, 3).tolist() == [3, 4, 0]
