"""The runner over a torch model against one forward pass over whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.adapt.adapter import Applied
from modelworks.adapt.read import read
from modelworks.core.errors import ConfigError
from modelworks.engine.runner import TorchRunner, open_model
from modelworks.models.base import LanguageModel
from modelworks.models.save import save

BLOCK = 4


def int32(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def run(runner: TorchRunner, ids: list[int], held: int, blocks: list[int], wanted: list[int]) -> np.ndarray:
    return runner.step(int32(*ids), int32(0, len(ids)), int32(held), np.array([blocks], np.int32), int32(*wanted))


@torch.no_grad()
def whole(model: LanguageModel, ids: list[int]) -> np.ndarray:
    return model(torch.tensor([ids]))[0].numpy()


@given(data=st.data())
@settings(max_examples=15)
def test_any_cut_into_steps_gives_the_logits_of_one_pass(any_model: LanguageModel, data: st.DataObject) -> None:
    """Two sequences, in blocks out of order, both cut into chunks at random; every row wanted."""
    runner = TorchRunner(any_model, kv_bytes=1 << 16, block_size=BLOCK)
    tokens = [data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=15)) for _ in range(2)]
    blocks = np.array(data.draw(st.permutations(range(8))), dtype=np.int32).reshape(2, 4)
    held, got = [0, 0], [[], []]
    while any(len(ids) > done for ids, done in zip(tokens, held)):
        rows = [b for b in range(2) if len(tokens[b]) > held[b]]
        counts = [data.draw(st.integers(1, len(tokens[b]) - held[b])) for b in rows]
        ids = [index for b, count in zip(rows, counts) for index in tokens[b][held[b] : held[b] + count]]
        starts = np.cumsum([0, *counts])
        logits = runner.step(
            int32(*ids), int32(*starts), int32(*(held[b] for b in rows)), blocks[rows], int32(*range(len(ids)))
        )
        for at, b in enumerate(rows):
            got[b].append(logits[starts[at] : starts[at + 1]])
            held[b] += counts[at]
    for ids, rows_TV in zip(tokens, got):
        np.testing.assert_allclose(np.concatenate(rows_TV), whole(any_model, ids), atol=2e-4, rtol=1e-4)


def test_only_wanted_rows_come_back_in_their_order(bare: LanguageModel) -> None:
    runner = TorchRunner(bare, kv_bytes=1 << 16, block_size=BLOCK)
    ids = [5, 6, 7, 8, 9]
    table = np.array([[0, -1], [1, 2]], dtype=np.int32)
    logits = runner.step(int32(*ids), int32(0, 2, 5), int32(0, 0), table, int32(1, 3, 4))
    np.testing.assert_allclose(logits[0], whole(bare, ids[:2])[1], atol=2e-4)
    np.testing.assert_allclose(logits[1:], whole(bare, ids[2:])[1:], atol=2e-4)
    nothing = runner.step(int32(1), int32(0, 1), int32(0), table[:1], int32())
    assert nothing.shape == (0, 258)


def test_a_neighbour_never_changes_a_row(bare: LanguageModel) -> None:
    """efficient.md 10; vllm#48271: bit for bit."""
    runner = TorchRunner(bare, kv_bytes=1 << 16, block_size=BLOCK)
    alone = run(runner, [1, 2, 3], 0, [0], [2])
    for neighbour in ([200], [7, 7, 7, 7]):
        ids = int32(*neighbour, 1, 2, 3)
        starts = int32(0, len(neighbour), len(ids))
        logits = runner.step(ids, starts, int32(0, 0), np.array([[1], [2]], np.int32), int32(len(ids) - 1))
        assert np.array_equal(logits, alone)


def test_a_copied_block_is_as_good_as_the_first(bare: LanguageModel) -> None:
    runner = TorchRunner(bare, kv_bytes=1 << 16, block_size=BLOCK)
    run(runner, [1, 2, 3, 4], 0, [0], [])
    runner.copy_block(0, 3)
    expected = run(runner, [5], 4, [0, 1], [0])
    run(runner, [9, 9, 9, 9], 0, [0], [])  # the copy is one's own
    assert np.array_equal(run(runner, [5], 4, [3, 2], [0]), expected)


def test_adapters_of_a_torch_model(bare: LanguageModel, save_adapter: Callable[..., Path], tmp_path: Path) -> None:
    """Each sequence by its own; the module is as it was."""
    adapters = [read(save_adapter(tmp_path / str(seed), bare, seed=seed), bare).matrices() for seed in range(2)]
    runner = TorchRunner(bare, kv_bytes=1 << 16, block_size=BLOCK)
    before = run(runner, [5, 6, 7], 0, [0], [0, 1, 2])
    numbers = [runner.add_adapter(matrices) for matrices in adapters]
    table = np.array([[0], [1], [2], [3]], np.int32)
    chosen = int32(numbers[0], -1, numbers[1], numbers[0])
    ids, starts = int32(*[5, 6, 7] * 4), int32(0, 3, 6, 9, 12)
    logits = runner.step(ids, starts, int32(0, 0, 0, 0), table, int32(*range(12)), chosen).reshape(4, 3, -1)
    for at, matrices in ((0, adapters[0]), (2, adapters[1])):
        with Applied(bare, matrices):
            np.testing.assert_allclose(logits[at], whole(bare, [5, 6, 7]), atol=2e-4)
    assert np.array_equal(logits[1], before)
    assert np.array_equal(logits[0], logits[3])
    assert np.abs(logits[0] - before).max() > 1
    runner.remove_adapter(numbers[0])
    assert runner.add_adapter(adapters[0]) not in numbers


def test_memory_is_what_was_given(bare: LanguageModel) -> None:
    token_bytes = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head size, float32
    assert TorchRunner(bare, kv_bytes=10 * token_bytes, block_size=4).num_blocks == 2
    with pytest.raises(ConfigError, match=f"one block of 4 tokens takes {4 * token_bytes} bytes"):
        TorchRunner(bare, kv_bytes=3 * token_bytes, block_size=4)
    with pytest.raises(ConfigError, match="block_size is 0"):
        TorchRunner(bare, block_size=0)


def test_what_computes_a_model(bare: LanguageModel, tmp_path: Path) -> None:
    """Torch computes a model as it is; packed, or from a GGUF file, it is the native program's."""
    model, runner = open_model(bare, kv_bytes=1 << 16)
    assert model is bare
    assert isinstance(runner, TorchRunner)
    save(bare, tmp_path)
    model, runner = open_model(tmp_path, kv_bytes=1 << 16)
    assert isinstance(runner, TorchRunner)
    assert runner.num_blocks == 8
    np.testing.assert_allclose(run(runner, [1, 2, 3], 0, [0], [2])[0], whole(bare, [1, 2, 3])[2], atol=2e-4)


def test_a_model_packed_for_the_native_program(bare: LanguageModel, native_kernels: None) -> None:
    model, runner = open_model(bare, kv_bytes=1 << 16, weights="q8")
    assert model is bare
    assert not isinstance(runner, TorchRunner)
    logits, expected = run(runner, [1, 2, 3], 0, [0], [2])[0], whole(bare, [1, 2, 3])[2]  # type: ignore[arg-type]
    assert np.corrcoef(logits, expected)[0, 1] > 0.995  # 8 bits of weights and of activations
    with pytest.raises(ConfigError, match="one block of 32 tokens takes"):
        open_model(bare, kv_bytes=100, weights="q8")


def test_a_family_without_a_plan_is_said(gpt2: LanguageModel, native_kernels: None) -> None:
    with pytest.raises(ConfigError):
        open_model(gpt2, kv_bytes=1 << 20, weights="q8")


@pytest.mark.slow
def test_the_starter_is_computed_from_its_packed_blocks(smollm: LanguageModel, native_kernels: None) -> None:
    model, runner = open_model("starter", kv_bytes=1 << 26)
    assert not isinstance(runner, TorchRunner)
    assert next(model.parameters()).device.type == "meta"
    assert model.tokenizer is not None
    prompt = model.tokenizer.encode("The capital of France is the city of")
    logits = run(runner, prompt, 0, [0], [len(prompt) - 1])[0]  # type: ignore[arg-type]
    assert model.tokenizer.decode([int(logits.argmax())]) == " Paris"
    assert logits.argmax() == whole(smollm, prompt)[-1].argmax()


def test_the_model_keeps_its_mode(gpt2: LanguageModel) -> None:
    """Dropout is off in a step, and on again for the training that it interrupts."""
    expected = run(TorchRunner(gpt2, kv_bytes=1 << 16), [1, 2, 3], 0, [0], [2])
    gpt2.train()
    assert np.array_equal(run(TorchRunner(gpt2, kv_bytes=1 << 16), [1, 2, 3], 0, [0], [2]), expected)
    assert gpt2.training
