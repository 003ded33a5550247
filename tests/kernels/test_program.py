"""Plans written by hand, beside the same steps in numpy. The families' plans are in tests/models/test_plan.py."""

from __future__ import annotations

import threading

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


# --- adapters ---------------------------------------------------------------------------------------------------------

NOTHING = pack(quantize(np.zeros((40, WIDTH), np.float32), 8)), pack(quantize(np.zeros((24, WIDTH), np.float32), 8))


SQUARE = matrix(WIDTH, WIDTH, 4)


def probe() -> Plan:
    """Two parts that give nothing, of 40 and 24 rows, after a norm; and a head that reads each of 64 columns alone."""
    picks = pack(quantize(np.eye(WIDTH, dtype=np.float32), 8))
    steps = (
        Embed(0, SQUARE),
        Linear(0, 1, NOTHING, before=NORM, names=("upper", "lower")),
        Linear(1, LOGITS, (picks,), names=("head",)),
    )
    return Plan((WIDTH, WIDTH), steps, layers=1, kv_heads=1, head_dim=8, vocab_size=WIDTH, context_length=64)


def low_rank(rows: int, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return tuple(random.normal(size=shape).astype(np.float32) for shape in ((rank, WIDTH), (rows, rank)))  # type: ignore[return-value]


@needs_native
@pytest.mark.parametrize("ranks", [(4, 4), (1, 9), (16, 3), (8, 64)])
@pytest.mark.parametrize("count", [1, 3, 4, 30])
def test_what_an_adapter_adds(ranks: tuple[int, int], count: int) -> None:
    """To 1e-4 of b (a x), though activations are rounded on the way: a row that is alone in its group is kept whole."""
    table = dequantize(SQUARE)
    ids = list(range(7, 7 + count))
    starts, wanted = np.array([0, count], np.int32), np.arange(count, dtype=np.int32)
    unit = np.diag(dequantize(probe().steps[-1].parts[0]))  # type: ignore[union-attr]
    program = Program(probe(), num_blocks=1)
    pairs = {"upper": low_rank(40, ranks[0], 1), "lower": low_rank(24, ranks[1], 2)}
    expected = np.concatenate([normed(table[ids]) @ a.T @ b.T for a, b in pairs.values()], axis=1)
    found = np.zeros_like(expected)
    for row in range(32):  # of each group of 32 columns one at a time, so that it sets the group's scale
        masks = [np.isin(np.arange(size) + first, (row, 32 + row)) for first, size in ((0, 40), (40, 24))]
        masked = {name: (a, b * mask[:, None]) for (name, (a, b)), mask in zip(pairs.items(), masks)}
        number = program.add_adapter(masked)
        logits = program.step(np.array(ids), starts, *ONE[1:], wanted, np.array([number], np.int32))
        found[:, [row, 32 + row]] = (logits / unit)[:, [row, 32 + row]]
        program.remove_adapter(number)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@needs_native
def test_without_an_adapter_not_a_bit_changes() -> None:
    plan = made(Embed(0, TABLE), Linear(0, 1, (INNER,), before=NORM, names=("inner",)), Linear(1, LOGITS, (HEAD,)))
    program = Program(plan, num_blocks=2)
    number = program.add_adapter({"inner": low_rank(WIDTH, 4, 1)})
    one = program.step(np.array([5, 7, 9]), *ONE, np.arange(3))
    batch = (np.array([5, 7, 9, 5, 7, 9]), np.array([0, 3, 6]), np.array([0, 0]), np.array([[0], [1]]), np.arange(6))
    mixed = program.step(*batch, np.array([number, -1]))
    np.testing.assert_array_equal(mixed[3:], one)
    np.testing.assert_array_equal(program.step(*batch, np.array([-1, -1])), np.concatenate((one, one)))
    assert np.abs(mixed[:3] - one).max() > 1


@needs_native
def test_adapters_that_do_not_fit() -> None:
    program = Program(probe(), num_blocks=1)
    a, b = low_rank(40, 4, 0)
    for matrices, said in (
        ({"other": (a, b)}, "no matrix other"),
        ({"head": low_rank(WIDTH, 4, 0)}, "no matrix head"),
        ({"lower": (a, b)}, "does not fit lower, 24 x 64"),
        ({"upper": (a[:, 1:], b)}, "does not fit upper"),
        ({"upper": (a[:0], b[:, :0])}, "does not fit upper"),
    ):
        with pytest.raises(ValueError, match=said):
            program.add_adapter(matrices)
    number = program.add_adapter({"upper": (a, b)})
    program.remove_adapter(number)
    assert program.add_adapter({"upper": (a, b)}) != number
    with pytest.raises(ValueError, match="no adapter"):
        program.remove_adapter(number)
    for adapters, said in (
        ([number], f"adapter {number}, which is not there"),
        ([-2], "adapter -2"),
        ([], "one entry"),
    ):
        with pytest.raises(ValueError, match=said):
            program.step(np.array([1, 2, 3]), *ONE, np.array([2]), np.array(adapters, np.int32))


@needs_native
def test_adapters_come_and_go_while_steps_run() -> None:
    """Never within a step: each of many gives what it gives alone."""
    plan = made(Embed(0, TABLE), Linear(0, 1, (INNER,), before=NORM, names=("inner",)), Linear(1, LOGITS, (HEAD,)))
    program = Program(plan, num_blocks=1)
    kept = program.add_adapter({"inner": low_rank(WIDTH, 4, 1)})
    batch = (np.array([5, 7, 9]), *ONE, np.arange(3), np.array([kept]))
    expected = program.step(*batch)
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            numbers = [program.add_adapter({"inner": low_rank(WIDTH, 8, seed)}) for seed in range(3)]
            for number in numbers:
                program.remove_adapter(number)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            np.testing.assert_array_equal(program.step(*batch), expected)
    finally:
        done.set()
        thread.join()


def test_a_plan_counts_each_matrix_once() -> None:
    plan = made(Embed(0, TABLE), Linear(0, 1, (INNER,)), Linear(1, LOGITS, (TABLE,)))
    assert plan.weight_bytes == TABLE.nbytes + INNER.nbytes
    assert plan.block_bytes == 1 * 2 * 1 * 16 * 32 * 2  # heads are padded to whole vectors of 16


def test_without_kernels_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "native", lambda: None)
    with pytest.raises(ConfigError, match="torch model"):
        Program(made(Embed(0, TABLE)), num_blocks=1)
