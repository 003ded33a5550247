"""Blocks as weights: the native kernel beside the reference on every instruction set, and NF4 beside its paper."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.kernels import dequantize as module
from modelworks.kernels import native
from modelworks.kernels.dequantize import BLOCKS, DYNAMIC, NF4, dequantize, dequantize_reference, quantize_nf4

EXTENSION = native.native()
ISAS = EXTENSION.isas() if EXTENSION else []
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2]}


def random_blocks(kind: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """Any bits, but for scales, which are numbers."""
    random = np.random.default_rng(seed)
    if kind == "NF4":
        return quantize_nf4(random.normal(size=64 * count).astype(np.float32))
    blocks = random.integers(0, 256, (count, BLOCKS[kind][0]), np.uint8)
    for at in HALVES.get(kind, [208]):
        blocks[:, at : at + 2] = random.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
    return blocks, np.empty(0, np.float32), 0.0


@pytest.mark.skipif(EXTENSION is None, reason="modelworks was installed without its native kernels")
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_native_equals_the_reference(kind: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit in float32, and rounded as torch rounds in bfloat16; in one chunk and in many."""
    monkeypatch.setenv("MODELWORKS_ISA", isa)
    monkeypatch.setenv("MODELWORKS_THREADS", "2")
    for count in (1, 3, 2500):
        blocks, scales, offset = random_blocks(kind, count)
        expected = dequantize_reference(kind, blocks, scales, offset)
        found = np.empty_like(expected)
        dequantize(kind, blocks, found, scales, offset)
        np.testing.assert_array_equal(found, expected)
        bits = np.empty(expected.shape, np.uint16)
        dequantize(kind, blocks, bits, scales, offset)
        assert torch.equal(torch.from_numpy(bits).view(torch.bfloat16), torch.from_numpy(expected).bfloat16())


@pytest.mark.parametrize("kind", BLOCKS)
def test_without_the_extension(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "native", lambda: None)
    blocks, scales, offset = random_blocks(kind, 5)
    expected = torch.from_numpy(dequantize_reference(kind, blocks, scales, offset))
    found, bits = np.empty(expected.shape, np.float32), np.empty(expected.shape, np.uint16)
    dequantize(kind, blocks, found, scales, offset)
    dequantize(kind, blocks, bits, scales, offset)
    assert torch.equal(torch.from_numpy(found), expected)
    assert torch.equal(torch.from_numpy(bits).view(torch.bfloat16), expected.bfloat16())


def test_a_type_without_a_kernel_is_read_by_the_reference() -> None:
    blocks = np.random.default_rng(0).integers(0, 256, 84, np.uint8)
    found = np.empty(256, np.float32)
    dequantize("Q2_K", blocks, found)
    np.testing.assert_array_equal(found, gguf.dequantize(blocks[None], gguf.GGMLQuantizationType.Q2_K)[0])


@pytest.mark.skipif(EXTENSION is None, reason="modelworks was installed without its native kernels")
def test_sizes_that_do_not_agree() -> None:
    blocks, scales, offset = random_blocks("NF4", 300)
    for wrong in (np.empty(64 * 299, np.float32), np.empty(64 * 300, np.float64)):
        with pytest.raises(ValueError, match="one number of weights"):
            dequantize("NF4", blocks, wrong, scales, offset)
    with pytest.raises(ValueError, match="a second scale for each 256 blocks"):
        dequantize("NF4", blocks, np.empty(64 * 300, np.float32), scales[:1], offset)


# --- NF4 --------------------------------------------------------------------------------------------------------------


def test_the_code_book_is_the_normal_distributions() -> None:
    """Dettmers et al. 2023, section 3: 8 quantiles above zero and 7 below, each half's outermost at 1."""
    outer = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2  # the mean of both halves' outermost: 0.9677083
    high = torch.special.ndtri(torch.linspace(outer, 0.5, 9, dtype=torch.float64)[:-1])
    low = -torch.special.ndtri(torch.linspace(outer, 0.5, 8, dtype=torch.float64)[:-1])
    expected = torch.cat((high, low, torch.zeros(1, dtype=torch.float64))).sort().values / high[0]
    np.testing.assert_allclose(NF4, expected.numpy(), atol=1e-6)


def test_the_levels_of_scales() -> None:
    """As 8-bit optimisers have them: 256 of either sign, dense near zero, the greatest the middle of the last part."""
    assert len(DYNAMIC) == len(np.unique(DYNAMIC)) == 256
    assert DYNAMIC[-1] == 1
    assert DYNAMIC[0] == np.float32(-0.99296875)
    assert DYNAMIC[128] == np.float32(5.5e-7)
    assert DYNAMIC[127] == 0


def test_bits_a_weight() -> None:
    """Ibid., section 3: 4.5 bits with scales of 32 bits, 4.127 with double quantisation."""
    blocks, scales, _ = quantize_nf4(np.random.default_rng(0).normal(size=(1536, 576)).astype(np.float32))
    bits = 8 * (blocks.nbytes + scales.nbytes) / (1536 * 576)
    assert bits == pytest.approx(4.127, abs=2e-4)
    assert 4 + 32 / 64 == 4.5


@settings(max_examples=25)
@given(st.integers(1, 2000), st.integers(0, 99), st.sampled_from([1e-20, 1e-3, 1.0, 1e20]))
def test_each_weight_goes_to_the_nearest_level(size: int, seed: int, strength: float) -> None:
    weights = (np.random.default_rng(seed).standard_t(3, size) * strength).astype(np.float32)
    blocks, scales, offset = quantize_nf4(weights)
    found = dequantize_reference("NF4", blocks, scales, offset)[:size]
    for start in range(0, size, 64):
        block = weights[start : start + 64].astype(np.float64) / np.abs(weights[start : start + 64]).max()
        codes = np.concatenate((blocks[start // 64, 1:] & 15, blocks[start // 64, 1:] >> 4))[: len(block)]
        best = np.abs(block[:, None] - NF4.astype(np.float64)).min(axis=1)
        np.testing.assert_allclose(np.abs(block - NF4[codes]), best, atol=1e-6)
    assert np.isfinite(found).all()


def test_the_error_is_that_of_the_code_book() -> None:
    """Double quantisation adds next to nothing to it: normal weights, blocks of 64."""
    weights = np.random.default_rng(0).normal(size=2**18).astype(np.float32)
    found = dequantize_reference("NF4", *quantize_nf4(weights))
    w_N64 = weights.reshape(-1, 64)
    peak = np.abs(w_N64).max(axis=1, keepdims=True)
    exact = NF4[np.abs((w_N64 / peak)[..., None] - NF4).argmin(-1)] * peak
    single, double = (float(np.sqrt(np.square(each.reshape(-1) - weights).mean())) for each in (exact, found))
    assert single == pytest.approx(0.0915, abs=0.002)
    assert double == pytest.approx(single, rel=0.01)


@pytest.mark.parametrize("weights", [np.zeros(130), np.full(64, -3.0), np.array([1.0])])
def test_weights_without_spread(weights: np.ndarray) -> None:
    found = dequantize_reference("NF4", *quantize_nf4(weights.astype(np.float32)))[: weights.size]
    np.testing.assert_allclose(found, weights, rtol=1e-6)
