"""Rows to batches: what the model reads, what it is to predict, and what of that counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modelworks.data.collate import BLANK, Encoded, collate, packed_row, pad_id_of
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.text.tokenizer import Tokenizer


def documents() -> list[Encoded]:
    generator = np.random.default_rng(0)
    made = []
    for length in (7, 4, 12, 5, 2):
        weights = (generator.random(length) * 2 * (generator.random(length) < 0.7)).astype(np.float32)
        made.append(Encoded(generator.integers(3, 97, length), weights))
    return made


def summed_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits_BTV = model(batch["input_ids"], positions_BT=batch["positions"], attention_mask_BS=batch["attention_mask"])
    losses_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), batch["targets"], reduction="none")
    return (losses_BT * batch["weights"]).sum()


def tiny(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        model: Any = GPT2(GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    else:
        shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
        model = Llama(LlamaConfig.from_hf({"model_type": "llama"} | shape | heads))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_documents_lose_what_they_lose_alone(kind: str) -> None:
    """training.md 7 (trl#1230): attention, positions and targets of a packed batch stay within each document; and 9
    (trl#6800): a model of learned positions is not shifted by packing or padding.
    """
    model, made = tiny(kind), documents()
    alone = sum(summed_loss(model, collate([packed_row([document])], pad_id=0)) for document in made)
    packed = collate([packed_row(made[:2]), packed_row(made[2:])], pad_id=0)
    padded = collate([packed_row([document]) for document in made], pad_id=0, length=20)
    assert packed["input_ids"].shape == (2, 16)
    torch.testing.assert_close(summed_loss(model, packed), alone, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(summed_loss(model, padded), alone, rtol=1e-6, atol=1e-5)


def test_targets_follow_inputs_and_stay_in_their_document() -> None:
    first = Encoded(np.array([11, 12, 13]), np.array([0, 0, 0.5], np.float32))
    second = Encoded(np.array([21, 22]), np.array([9, 1], np.float32))
    batch = collate([packed_row([first, second])], pad_id=1, length=5)
    assert batch["input_ids"].tolist() == [[11, 12, 21, 1, 1]]
    assert batch["targets"].tolist() == [[12, 13, 22, 1, 1]]
    assert batch["weights"].tolist() == [[0, 0.5, 1, 0, 0]]  # what a first token weighs is nobody's to predict
    assert batch["attention_mask"].tolist() == [[1, 1, 2, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 0, 0, 0]]


def test_a_blank_row_counts_nothing_and_leaves_the_others_alone() -> None:
    model, made = tiny("llama"), documents()
    with_blank = collate([packed_row(made[:1]), BLANK], pad_id=0)
    without = collate([packed_row(made[:1])], pad_id=0)
    assert with_blank["weights"][1].sum() == 0
    grads = []
    for batch in (with_blank, without):
        model.zero_grad()
        summed_loss(model, batch).backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*grads)
    assert collate([BLANK], pad_id=0)["input_ids"].shape == (1, 1)


def test_pad_is_never_a_stop_token(tokenizer: Tokenizer) -> None:
    """training.md 4 (trl#1623)."""
    assert tokenizer.eos_id == 0  # and the tokenizer was told to pad with it
    assert pad_id_of(tokenizer) == tokenizer.control_id("<|pad|>")
    tokenizer.pad_id = None
    assert pad_id_of(tokenizer) == 1
    tokenizer.pad_id = tokenizer.control_id("<|im_end|>")
    assert pad_id_of(tokenizer) == 1
