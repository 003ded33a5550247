"""Next-token prediction over any model: sums over what counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.objectives.causal_lm import CausalLM


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT2(GPT2Config(vocab_size=31, n_positions=16, n_embd=16, n_layer=2, n_head=2, n_inner=32)).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(0, 31, (4, 9), generator=generator)
    weights_BT = torch.tensor([[1.0] * 8, [0.5] * 8, [0.0] * 4 + [1.0] * 4, [0.0] * 8])
    return {"input_ids": ids_BT[:, :-1], "targets": ids_BT[:, 1:], "weights": weights_BT}


def test_it_is_the_weighted_sum_of_cross_entropy(model, batch):
    loss, metrics = CausalLM()(model, batch)
    token_BT = F.cross_entropy(model(batch["input_ids"]).transpose(1, 2), batch["targets"], reduction="none")
    torch.testing.assert_close(loss, (token_BT * batch["weights"]).sum())
    assert CausalLM().weight(batch) == 8 + 4 + 4
    assert metrics.keys() == {"nll"}
    torch.testing.assert_close(metrics["nll"].total, loss.detach())


def test_z_loss_is_added_and_reported(model, batch):
    loss, metrics = CausalLM(z_loss=0.1)(model, batch)
    torch.testing.assert_close(loss, metrics["nll"].total + 0.1 * metrics["z"].total)
    log_z_BT = model(batch["input_ids"]).logsumexp(-1)
    torch.testing.assert_close(metrics["z"].total, (log_z_BT.square() * batch["weights"]).sum())


def test_one_batch_is_the_sum_of_its_rows(model, batch):
    objective = CausalLM(z_loss=1e-3)
    whole, _ = objective(model, batch)
    rows = [{name: tensor[row : row + 1] for name, tensor in batch.items()} for row in range(4)]
    torch.testing.assert_close(sum(objective(model, row)[0] for row in rows), whole)
    assert sum(objective.weight(row) for row in rows) == objective.weight(batch)


def test_a_packed_document_is_predicted_as_if_it_were_alone(model):
    """trl#1230: what stands before it in the row must not leak in."""
    generator = torch.Generator().manual_seed(2)
    ids_BT = torch.randint(0, 31, (1, 10), generator=generator)
    packed = {
        "input_ids": ids_BT,
        "targets": ids_BT.roll(-1, 1),
        "weights": torch.tensor([[0.0] * 4 + [1.0] * 6]),
        "attention_mask": torch.tensor([[1] * 4 + [2] * 6]),
        "positions": torch.tensor([[*range(4), *range(6)]]),
    }
    alone = {name: packed[name][:, 4:] for name in ("input_ids", "targets", "weights")}
    torch.testing.assert_close(CausalLM()(model, packed)[0], CausalLM()(model, alone)[0], atol=1e-5, rtol=0)
