"""Every GGUF type that is packed as it is, beside gguf's own de-quantisation of random bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as TensorType

from modelworks.kernels.blocks import DECODERS, decode
from modelworks.kernels.linear import dequantize, pack

# Where a block's fp16 numbers are; all other bytes may be anything.
HALFS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


@pytest.mark.parametrize("kind", DECODERS)
def test_blocks_equal_ggufs_own(kind: str) -> None:
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[TensorType[kind]]
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (21, 3, block_bytes), dtype=np.uint8)
    for at in HALFS[kind]:
        scales = random.normal(size=(21, 3)).astype(np.float16) / 64
        rows[:, :, at : at + 2] = scales[:, :, None].view(np.uint8)
    rows = rows.reshape(21, -1)
    wanted = gguf.dequantize(rows, TensorType[kind])
    found = dequantize(pack(decode(kind, rows, block_bytes)))
    assert found.shape == (21, 3 * block_size)
    # Scales of K-quants are products, rounded to fp16; the others are kept.
    tolerance = 2**-10 * np.abs(wanted).max() if "K" in kind else 1e-6
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=tolerance)
