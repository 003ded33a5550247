"""Plans written by hand, beside the same steps in numpy. The families' plans are in tests/models/test_plan.py."""

from __future__ import annotations

import numpy as np
import pytest

from modelworks.core.errors import ConfigError
from modelworks.kernels import program as programs
from modelworks.kernels.linear import Packed, dequantize, linear_reference, pack, quantize
from modelworks.kernels.native import native
from modelworks.kernels.program import LOGITS, AddNorm, Embed, Linear, Norm, Plan, Program, Step

needs_native = pytest.mark.skipif(native() is None, reason="modelworks was installed without its native kernels")
VOCAB, WIDTH = 40, 64
ONE = (np.array([0, 3], np.int32), np.array([0], np.int32), np.array([[0]], np.int32))


def matrix(rows: int, cols: int, seed: int) -> Packed:
    return pack(quantize(np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32), 8))


def made(*steps: Step) -> Plan:
    return Plan((WIDTH, WIDTH), steps, layers=1, kv_heads=1, head_dim=8, vocab_size=VOCAB, context_length=64)


def logits_of(plan: Plan, ids: list[int], wanted: list[int]) -> np.ndarray:
    return Program(plan, num_blocks=1).step(np.array(ids, np.int32), *ONE, np.array(wanted, np.int32))


TABLE, HEAD, INNER = matrix(VOCAB, WIDTH, 0), matrix(VOCAB, WIDTH, 1), matrix(WIDTH, WIDTH, 2)
NORM = Norm(np.linspace(0.5, 1.5, WIDTH, dtype=np.float32), 1e-5)


def normed(x: np.ndarray) -> np.ndarray:
    return (x / np.sqrt((x * x).mean(-1, keepdims=True) + NORM.eps) * NORM.weight).astype(np.float32)


@needs_native
def test_steps_do_what_they_say() -> None:
    bias = np.arange(WIDTH, dtype=np.float32) / 100
    plan = made(
        Embed(0, TABLE, scale=2.0),
        Linear(0, 1, (INNER,), bias=bias, before=NORM),
        AddNorm(1, 0, NORM),
        Linear(0, LOGITS, (HEAD,)),
    )
    x = 2 * dequantize(TABLE)[[5, 7, 9]]
    x = x + normed(linear_reference(INNER, normed(x)) + bias)
    found = logits_of(plan, [5, 7, 9], [2, 0])
    np.testing.assert_allclose(found, linear_reference(HEAD, x)[[2, 0]], rtol=0.01, atol=0.2)
    assert found.std() > 1


@needs_native
def test_a_product_can_add_to_what_is_there_and_gate_its_halves() -> None:
    gate = matrix(2 * WIDTH, WIDTH, 3)
    plan = Plan(
        (WIDTH, 2 * WIDTH),
        (
            Embed(0, TABLE),
            Linear(0, 1, (gate,)),
            Linear(1, 0, (INNER,), add=True, before="silu"),
            Linear(0, LOGITS, (HEAD,)),
        ),
        layers=1,
        kv_heads=1,
        head_dim=8,
        vocab_size=VOCAB,
        context_length=64,
    )
    x = dequantize(TABLE)[[1, 2, 3]]
    left, right = np.split(linear_reference(gate, x), 2, axis=-1)
    x = x + linear_reference(INNER, (left / (1 + np.exp(-left)) * right).astype(np.float32))
    expected = linear_reference(HEAD, x)
    np.testing.assert_allclose(logits_of(plan, [1, 2, 3], [0, 1, 2]), expected, atol=0.02 * np.abs(expected).max())


@needs_native
@pytest.mark.parametrize(("ids", "wanted"), [([0, 1, VOCAB], [0]), ([0, -1, 2], [0]), ([0, 1, 2], [3])])
def test_what_is_out_of_range_is_refused(ids: list[int], wanted: list[int]) -> None:
    with pytest.raises(ValueError):
        logits_of(made(Embed(0, TABLE), Linear(0, LOGITS, (HEAD,))), ids, wanted)


def test_a_plan_counts_each_matrix_once() -> None:
    plan = made(Embed(0, TABLE), Linear(0, 1, (INNER,)), Linear(1, LOGITS, (TABLE,)))
    assert plan.weight_bytes == TABLE.nbytes + INNER.nbytes
    assert plan.block_bytes == 1 * 2 * 1 * 16 * 32 * 2  # heads are padded to whole vectors of 16


def test_without_kernels_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "native", lambda: None)
    with pytest.raises(ConfigError, match="torch model"):
        Program(made(Embed(0, TABLE)), num_blocks=1)
