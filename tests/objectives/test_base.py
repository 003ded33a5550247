"""The contract of objectives: sums and weights, which micro-batches add up to (transformers#34191)."""

from __future__ import annotations

import pytest
import torch

from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.objectives.causal_lm import CausalLM
from modelworks.objectives.distill import Distill


def tiny(seed: int) -> GPT2:
    torch.manual_seed(seed)
    return GPT2(GPT2Config(vocab_size=31, n_positions=16, n_embd=16, n_layer=1, n_head=2, n_inner=32)).eval()


@pytest.mark.parametrize(
    "objective", [CausalLM(z_loss=1e-3), Distill(teacher=tiny(1), hard=0.3)], ids=["lm", "distill"]
)
def test_micro_batches_add_up_to_the_batch(objective):
    model = tiny(0)
    torch.manual_seed(2)
    ids_BT, weights_BT = torch.randint(0, 31, (4, 9)), torch.rand(4, 8)
    weights_BT[1, :6] = 0  # rows count unequally, so that a mean of means would be another number
    batch = {"input_ids": ids_BT[:, :-1], "targets": ids_BT[:, 1:], "weights": weights_BT}
    rows = [{name: tensor[at : at + 1] for name, tensor in batch.items()} for at in range(4)]
    whole, metrics = objective(model, batch)
    parts = [objective(model, row) for row in rows]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    torch.testing.assert_close(sum(objective.weight(row) for row in rows), objective.weight(batch))
    for name, ratio in metrics.items():
        assert not ratio.total.requires_grad
        torch.testing.assert_close(sum(part[name].total for _, part in parts), ratio.total)
        torch.testing.assert_close(sum(part[name].weight for _, part in parts), ratio.weight)
