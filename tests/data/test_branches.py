from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.objectives.completions import completions

V = 37


def branch(ids, weights=None, **tokens):
    ids = np.array(ids, np.int64)
    return Branch(ids, np.ones(len(ids), np.float32) if weights is None else np.array(weights, np.float32), tokens)


def llama() -> Llama:
    torch.manual_seed(0)
    config = {
        "model_type": "llama", "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
    }  # fmt: skip
    return Llama(LlamaConfig.from_hf(config))


def gpt2() -> GPT2:
    torch.manual_seed(0)
    return GPT2(GPT2Config(vocab_size=V, n_positions=64, n_embd=16, n_layer=2, n_head=2, n_inner=32))


def alone(model, row: Branches) -> list[float]:
    """Each completion behind its prompt, in a pass of its own, from whole logits."""
    found = []
    for completion in row.completions:
        ids = torch.from_numpy(np.concatenate([row.prompt, completion.ids]))[None]
        logprobs = model(ids[:, :-1]).log_softmax(-1)[0].gather(-1, ids[0, 1:, None])[:, 0]
        found.append(float((logprobs[len(row.prompt) - 1 :] * torch.from_numpy(completion.weights)).sum().detach()))
    return found


def test_the_layout_is_that_of_the_modules_docstring():
    row = Branches(np.array([10, 11, 12]), (branch([20, 21, 9]), branch([22, 9])))
    batch = branch_batch([row], pad_id=0)
    assert batch["input_ids"].tolist() == [[10, 11, 12, 20, 21, 12, 22]]
    assert batch["targets"].tolist() == [[11, 12, 20, 21, 9, 22, 9]]
    assert batch["weights"].tolist() == [[0, 0, 1, 1, 1, 1, 1]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 4, 2, 3]]
    assert batch["sequences"].tolist() == [[-1, -1, 0, 0, 0, 1, 1]]


def test_a_whole_row_reads_the_last_token_too():
    row = Branches(np.array([10, 11]), (branch([20, 9]),))
    batch = branch_batch([row], pad_id=7, whole=True)
    assert batch["input_ids"].tolist() == [[10, 11, 20, 9]]
    assert batch["targets"].tolist() == [[11, 20, 9, 7]]
    assert batch["weights"].tolist() == [[0, 1, 1, 0]]
    assert batch["sequences"].tolist() == [[-1, 0, 0, 0]]


rows = st.lists(
    st.builds(
        Branches,
        st.lists(st.integers(0, V - 1), min_size=1, max_size=6).map(lambda ids: np.array(ids, np.int64)),
        st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=5).map(branch), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("packed", [True, False])
@settings(max_examples=25)
@given(rows=rows)
def test_completions_that_share_a_prompt_are_as_alone(build, packed, rows):
    model = build().eval()
    count = sum(len(row.completions) for row in rows)
    found = completions(model, branch_batch(rows, pad_id=0, packed=packed), count)
    expected = [value for row in rows for value in alone(model, row)]
    torch.testing.assert_close(found.logps_S, torch.tensor(expected), atol=1e-4, rtol=1e-5)
    assert found.lengths_S.tolist() == [len(each.ids) for row in rows for each in row.completions]


def test_gradients_of_a_shared_prompt_are_those_of_prompts_apart():
    row = Branches(np.array([1, 2, 3, 4]), (branch([5, 6, 7]), branch([8, 9])))
    apart = [Branches(row.prompt, (each,)) for each in row.completions]
    found = []
    for rows in ([row], apart):
        model = llama()
        completions(model, branch_batch(rows, pad_id=0), 2).logps_S.sigmoid().sum().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


def test_a_sliding_window_that_a_row_outgrows_is_refused():
    config = {
        "model_type": "mistral", "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 3,
    }  # fmt: skip
    model = Llama(LlamaConfig.from_hf(config))
    row = Branches(np.array([1, 2, 3]), (branch([5, 6, 7]), branch([8, 9])))
    with pytest.raises(ValueError, match="window"):
        completions(model, branch_batch([row], pad_id=0), 2)


def test_what_is_known_of_tokens_and_rows_is_laid_beside_them():
    row = Branches(
        np.array([1, 2]),
        (branch([5, 6], advantages=np.array([0.5, -1.0], np.float32)), branch([7])),
        {"margins": np.array([0.25], np.float32), "reference": np.array([-1.0, -2.0], np.float32)},
    )
    for packed, expected in ((True, [[0, 0.5, -1, 0, 0, 0.5, -1, 0]]), (False, [[0, 0.5, -1, 0]] * 2)):
        batch = branch_batch([row, row], pad_id=0, packed=packed)
        assert batch["advantages"].tolist() == expected
        assert batch["margins"].tolist() == [0.25, 0.25]
        assert batch["reference"].tolist() == [-1, -2, -1, -2]


def test_no_rows_are_one_token_of_padding_whose_loss_is_zero():
    batch = branch_batch([], pad_id=3)
    assert batch["input_ids"].tolist() == [[3]]
    model = llama()
    found = completions(model, batch, 0)
    found.logps_S.sum().backward()
    assert found.logps_S.tolist() == []


def test_a_prompt_without_tokens_and_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="no tokens"):
        branch_batch([Branches(np.array([], np.int64), (branch([1]),))], pad_id=0)
    with pytest.raises(ValueError, match="other numbers"):
        branch_batch([Branches(np.array([1]), (branch([1, 2], [1.0]),))], pad_id=0)
