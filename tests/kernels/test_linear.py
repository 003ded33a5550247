"""The packed layout, and the native product beside its numpy reference on every instruction set of this machine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.kernels import native
from modelworks.kernels.linear import (
    Groups,
    Packed,
    dequantize,
    linear,
    linear_reference,
    pack,
    quantize,
    quantize_activations,
    quantize_rest,
    unpack,
)

LAYOUTS = {"4": (4, False, False), "4-min": (4, True, False), "8": (8, False, False), "8-min": (8, True, False)}
LAYOUTS["8-halves"] = (8, False, True)
EXTENSION = native.native()
needs_native = pytest.mark.skipif(EXTENSION is None, reason="modelworks was installed without its native kernels")
ISAS = EXTENSION.isas() if EXTENSION else []


def random_groups(layout: str, rows: int, cols: int, seed: int = 0) -> Groups:
    """Every level that the layout has, and scales that fp16 holds exactly."""
    bits, has_min, halves = LAYOUTS[layout]
    random = np.random.default_rng(seed)
    least, most = (0, 15) if bits == 4 and has_min else (-8, 7) if bits == 4 else (-128, 127)
    q = random.integers(least, most, (rows, cols), endpoint=True).astype(np.int8)
    groups = -(-cols // 32)

    def scales(count: int) -> np.ndarray:
        return random.normal(size=(rows, count)).astype(np.float16).astype(np.float32)

    return Groups(bits, q, scales(2 * groups if halves else groups), scales(groups) if has_min else None)


def native_linear(packed: Packed, x: np.ndarray, isa: str, threads: int = 1, *, fine: bool = False) -> np.ndarray:
    y = np.empty((len(x), packed.rows), np.float32)
    EXTENSION.linear(packed, x, y, fine, threads, isa)
    return y


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=20)
@given(rows=st.integers(1, 40), cols=st.integers(1, 100), seed=st.integers(0, 99))
def test_unpacking_gives_what_was_packed(layout: str, rows: int, cols: int, seed: int) -> None:
    groups = random_groups(layout, rows, cols, seed)
    found = unpack(pack(groups))
    assert found.bits == groups.bits
    np.testing.assert_array_equal(found.q_RC, groups.q_RC)
    np.testing.assert_array_equal(found.scale, groups.scale)
    assert (found.low_RG is None) == (groups.low_RG is None)
    if groups.low_RG is not None:
        np.testing.assert_array_equal(found.low_RG, groups.low_RG)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_weights_are_within_half_a_level(bits: int) -> None:
    w = np.random.default_rng(1).normal(size=(33, 71)).astype(np.float32)
    groups = quantize(w, bits)
    error = np.abs(dequantize(pack(groups)) - w)
    level = np.repeat(groups.scale, 32, axis=1)[:, :71]
    # Beside the rounding to a level, that of the scale, and of the least value, to fp16.
    assert (error <= 0.5 * level + 16 * level * 2**-11 + np.abs(w).max() * 2**-11).all()


def test_zero_weights_and_activations_stay_zero() -> None:
    for bits in (4, 8):
        assert not dequantize(pack(quantize(np.zeros((5, 40), np.float32), bits))).any()
    q, scale = quantize_activations(np.zeros((2, 40), np.float32))
    assert not q.any()
    assert not scale.any()


def test_a_scale_beyond_fp16_is_an_error() -> None:
    groups = random_groups("8", 3, 32)
    with pytest.raises(ValueError, match="16 bits"):
        pack(dataclasses.replace(groups, scale=groups.scale * 1e6))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reference_is_a_product_of_rounded_activations(layout: str) -> None:
    packed = pack(random_groups(layout, 19, 70))
    x = np.random.default_rng(2).normal(size=(3, 70)).astype(np.float32)
    q, scale = quantize_activations(x)
    rounded = (q * scale[:, :, None]).reshape(3, -1)[:, :70]
    wanted = rounded.astype(np.float64) @ dequantize(packed).astype(np.float64).T
    np.testing.assert_allclose(linear_reference(packed, x), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@needs_native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_native_equals_reference_over_odd_shapes(layout: str, isa: str) -> None:
    for rows, cols, count in ((1, 1, 1), (16, 32, 4), (17, 33, 3), (50, 96, 7), (31, 200, 2), (200, 64, 5)):
        packed = pack(random_groups(layout, rows, cols, rows))
        x = np.random.default_rng(cols).normal(size=(count, cols)).astype(np.float32)
        wanted = linear_reference(packed, x)
        for threads in (1, 2):
            found = native_linear(packed, x, isa, threads)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6 * np.abs(wanted).max() * cols)


def dominated(count: int, cols: int) -> np.ndarray:
    """Random activations; in about half of the groups of 32, one is thirty times as large as the others."""
    random = np.random.default_rng(7)
    x = random.normal(size=(count, cols)).astype(np.float32)
    for row in x:
        for start in range(0, cols, 32):
            if random.random() < 0.5:
                row[random.integers(start, min(start + 32, cols))] = 30 * random.choice([-1, 1])
    return x


def test_the_rest_of_dominated_groups_gives_their_other_columns_back() -> None:
    x = dominated(20, 96)
    q, scale = quantize_activations(x)
    rest_q, rest_scale = quantize_rest(x, q, scale)
    groups = x.reshape(20, 3, 32)
    assert (rest_scale > 0).tolist() == (np.abs(groups).max(axis=2) == 30).tolist()
    assert not rest_q[rest_scale == 0].any()
    once = np.abs(q * scale[:, :, None] - groups)
    twice = np.abs(q * scale[:, :, None] + rest_q * rest_scale[:, :, None] - groups)
    kept = rest_scale > 0
    assert once[kept].max() > 0.1  # a level is 30 / 127
    assert twice[kept].max() <= 30 / 127 / 254 / 2 * 1.01


@needs_native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rest_is_added_where_it_is_asked_for(layout: str, isa: str) -> None:
    for rows, cols, count in ((17, 33, 3), (50, 96, 7), (64, 70, 13)):
        packed, x = pack(random_groups(layout, rows, cols, rows)), dominated(count, cols)
        exact = x.astype(np.float64) @ dequantize(packed).astype(np.float64).T
        wanted = linear_reference(packed, x, fine=True)
        found = native_linear(packed, x, isa, fine=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6 * np.abs(wanted).max() * cols)
        coarse = native_linear(packed, x, isa)
        assert np.square(found - exact).mean() < 0.1 * np.square(coarse - exact).mean()
        alone = np.concatenate([native_linear(packed, row[None], isa, fine=True) for row in x])
        np.testing.assert_array_equal(found, alone)


@needs_native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_integer_part_is_exact(layout: str, isa: str) -> None:
    """With scales of 1 and activations of whole numbers, of which one is 127, all sums are whole numbers below 2^24."""
    groups = random_groups(layout, 40, 64)
    low = None if groups.low_RG is None else np.full_like(groups.low_RG, 2)
    packed = pack(dataclasses.replace(groups, scale=np.ones_like(groups.scale), low_RG=low))
    x = np.random.default_rng(3).integers(-127, 127, (5, 64), endpoint=True).astype(np.float32)
    x[:, ::32] = 127
    x[0], x[1] = 127, -127  # the greatest sums
    wanted = x.astype(np.int64) @ (groups.q_RC.astype(np.int64) + (0 if low is None else 2)).T
    np.testing.assert_array_equal(native_linear(packed, x, isa), wanted)


@needs_native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_depends_on_nothing_but_itself(layout: str, isa: str) -> None:
    """vllm#48271: neighbours, their number and the number of threads change no bit."""
    packed = pack(random_groups(layout, 200, 96))
    x = np.random.default_rng(4).normal(size=(11, 96)).astype(np.float32)
    alone = np.concatenate([native_linear(packed, row[None], isa) for row in x])
    for count in (2, 3, 4, 5, 11):
        for threads in (1, 2, 3):
            np.testing.assert_array_equal(native_linear(packed, x[:count], isa, threads), alone[:count])


@needs_native
def test_wrong_sizes_are_refused() -> None:
    packed = pack(random_groups("8", 16, 32))
    x, y = np.zeros((1, 32), np.float32), np.empty((1, 16), np.float32)
    with pytest.raises(ValueError, match="cols"):
        EXTENSION.linear(packed, x[:, :31].copy(), y, False, 1, "portable")
    with pytest.raises(ValueError, match="size"):
        EXTENSION.linear(dataclasses.replace(packed, rows=32), x, y, False, 1, "portable")
    with pytest.raises(ValueError, match="layout"):
        EXTENSION.linear(dataclasses.replace(packed, bits=5), x, y, False, 1, "portable")
    with pytest.raises(ValueError, match="does not run"):
        EXTENSION.linear(packed, x, y, False, 1, "sse5")


def test_without_the_extension_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(random_groups("4-min", 20, 40))
    x = np.random.default_rng(5).normal(size=(2, 40)).astype(np.float32)
    monkeypatch.setattr("modelworks.kernels.linear.native", lambda: None)
    np.testing.assert_array_equal(linear(packed, x), linear_reference(packed, x))
