"""The GGUF reader, against the `gguf` package's writer and formulas, and against files that lie."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as TensorType
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.core import gguf as reader
from modelworks.core.errors import ModelFileError
from modelworks.core.gguf import GGUFFile

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
METADATA = {
    "tiny.count": ("add_uint32", 7),
    "tiny.signed": ("add_int64", -(2**40)),
    "tiny.ratio": ("add_float32", 0.5),
    "tiny.flag": ("add_bool", True),
    "tiny.text": ("add_string", "naïve 🙂"),
    "tiny.words": ("add_array", ["a", "", "Ġthe"]),
    "tiny.numbers": ("add_array", [1, -2, 3]),
    "tiny.nested": ("add_array", [[1, 2], [3]]),
}


def random_blocks(kind: TensorType, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Packed rows of any type, with scales that are ordinary numbers."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    if kind in (TensorType.F32, TensorType.F16):
        dtype = np.float32 if kind == TensorType.F32 else np.float16
        return rng.standard_normal((rows, columns)).astype(dtype).view(np.uint8)
    blocks = rng.integers(0, 256, (rows, columns // block_size * block_bytes), dtype=np.uint8)
    # A random half-precision or bfloat16 exponent can be infinite: clear its highest bit wherever one may stand.
    blocks[:, 1::2] &= 0x3F
    return blocks


def write(path: Path, tensors: dict[str, tuple[TensorType, np.ndarray]], **metadata: tuple[str, object]) -> Path:
    writer = gguf.GGUFWriter(path, "tiny")
    for key, (method, value) in metadata.items():
        getattr(writer, method)(key, value)
    for name, (kind, blocks) in tensors.items():
        writer.add_tensor(name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid file of two kilobytes with every kind of metadata and three tensors."""
    tensors = {
        "token_embd.weight": (TensorType.Q8_0, random_blocks(TensorType.Q8_0, 4, 64)),
        "blk.0.ffn_up.weight": (TensorType.Q4_1, random_blocks(TensorType.Q4_1, 3, 32)),
        "output_norm.weight": (TensorType.F32, random_blocks(TensorType.F32, 1, 33)),
    }
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf", tensors, **METADATA)


def test_types_are_those_of_the_gguf_package() -> None:
    ours = {kind.name: (int(kind), (kind.block_size, kind.block_bytes)) for kind in reader.TensorType}
    assert ours == {kind.name: (int(kind), gguf.GGML_QUANT_SIZES[kind]) for kind in TensorType}


def test_metadata_comes_back_with_its_types(small):
    metadata = GGUFFile(small).metadata
    assert {key: metadata[key] for key in METADATA} == {key: value for key, (_, value) in METADATA.items()}
    assert {type(metadata[f"tiny.{key}"]) for key in ("count", "signed", "ratio", "flag")} == {int, float, bool}
    assert metadata["general.architecture"] == "tiny" == GGUFFile(small).architecture


def test_tensors_are_described_in_torchs_order(small):
    file = GGUFFile(small)
    tensor = file.tensors["token_embd.weight"]
    assert (tensor.shape, tensor.type, tensor.nbytes, tensor.bits_per_weight) == ((4, 64), TensorType.Q8_0, 4 * 68, 8.5)
    assert file.tensors["output_norm.weight"].shape == (1, 33)
    assert file.blocks("token_embd.weight").tobytes() == random_blocks(TensorType.Q8_0, 4, 64).tobytes()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(("rows", "columns"), [(3, 256), (700, 512), (1, 1 << 18)])
def test_each_type_equals_the_gguf_packages_formula(name, rows, columns, tmp_path):
    kind = TensorType[name]
    blocks = random_blocks(kind, rows, columns)
    file = GGUFFile(write(tmp_path / "one.gguf", {"w": (kind, blocks)}))
    expected = gguf.dequantize(blocks, kind).reshape(rows, columns)
    assert np.array_equal(file.dequantize("w"), expected, equal_nan=True)
    assert np.isfinite(expected).mean() > 0.99
    order = np.random.default_rng(0).permutation(rows)
    pieces = [piece for _, piece in file.pieces("w", order)]
    assert np.array_equal(np.concatenate(pieces), expected[order], equal_nan=True)
    assert max(piece.size for piece in pieces) <= max(1 << 17, columns)


def test_higher_dimensions_keep_their_shape(tmp_path):
    values = np.arange(2 * 3 * 32, dtype=np.float32).reshape(2, 3, 32)
    file = GGUFFile(write(tmp_path / "three.gguf", {"w": (TensorType.F32, values)}))
    assert np.array_equal(file.dequantize("w"), values)


def test_a_type_without_a_formula_is_named_when_read(tmp_path):
    file = GGUFFile(write(tmp_path / "ints.gguf", {"w": (TensorType.I32, np.arange(32, dtype=np.int32))}))
    with pytest.raises(ModelFileError, match="tensor w is of type I32"):
        file.dequantize("w")


def test_summary_tells_fallbacks_and_strict_refuses_them(tmp_path):
    """llama.cpp#6614, #28474: in a file called Q4_K_M, rows of 576 are something else, and larger."""
    tensors = {
        "fits.weight": (TensorType.Q4_K, random_blocks(TensorType.Q4_K, 4, 512)),
        "odd.weight": (TensorType.Q5_0, random_blocks(TensorType.Q5_0, 4, 576)),
        "norm.weight": (TensorType.F32, np.ones(576, dtype=np.float32)),
    }
    path = write(tmp_path / "k.gguf", tensors, **{"general.file_type": ("add_uint32", 15)})
    summary = GGUFFile(path).summary()
    assert summary.file_type == "MOSTLY_Q4_K_M"
    assert summary.fallbacks == ("odd.weight",)
    assert summary.tensors["fits.weight"] == ("Q4_K", 4.5)
    assert summary.tensors["odd.weight"] == ("Q5_0", 5.5)
    assert summary.bits_per_weight == pytest.approx((2048 * 4.5 + 2304 * 5.5 + 576 * 32) / (2048 + 2304 + 576))
    assert "1 matrices are not K-quants" in str(summary)
    with pytest.raises(ModelFileError, match=r"odd\.weight, are not K-quants"):
        GGUFFile(path, strict=True)


def test_a_k_quant_with_rows_that_do_not_divide_is_refused(tmp_path):
    path = write(tmp_path / "bad.gguf", {"w": (TensorType.Q4_K, random_blocks(TensorType.Q4_K, 4, 512))})
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<QQ", 512, 4))
    data[at : at + 8] = struct.pack("<Q", 576)
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="rows of 576, but Q4_K packs blocks of 256"):
        GGUFFile(path)


# --- files that lie -----------------------------------------------------------------------------------------------


def header(*, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def padded(data: bytes, extra: int = 0) -> bytes:
    return data + bytes(-len(data) % 32 + extra)


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


HUGE = 2**63 + 5
LIES = {
    "empty": (b"", "it is empty"),
    "other kind": (b"PK\x03\x04 and so on", "does not start with GGUF"),
    "header cut": (b"GGUF\x03\x00", "the version needs 4 bytes"),
    "old version": (header(version=1), "version 1, supported are 2 and 3"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "key count": (header(keys=HUGE), f"claims {HUGE} metadata keys"),
    "tensor count": (header(tensors=HUGE), f"claims {HUGE} tensors"),
    "string length": (header(keys=1) + struct.pack("<Q", HUGE) + b"abcdefgh", "metadata key 0 needs"),
    "value type": (header(keys=1) + key("a", 99, b""), "a has the unknown value type 99"),
    "array type": (header(keys=1) + key("a", 9, struct.pack("<IQ", 77, 1) + bytes(16)), "unknown value type 77"),
    "array count": (header(keys=1) + key("a", 9, struct.pack("<IQ", 4, HUGE)), "elements of a"),
    "string array": (header(keys=1) + key("a", 9, struct.pack("<IQQ", 8, 1, HUGE)), "a is cut short"),
    "nesting": (header(keys=1) + key("a", 9, struct.pack("<IQ", 9, 1) * 40), "nests arrays"),
    "twice": (header(keys=2) + key("a", 0, b"1") * 2 + bytes(9), "key a occurs twice"),
    "not text": (header(keys=1) + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(9), "not UTF-8"),
    "alignment": (header(keys=1) + key("general.alignment", 4, struct.pack("<I", 0)), "general.alignment is 0"),
    "split": (header(keys=1) + key("split.count", 2, struct.pack("<H", 3)), "one of the 3 parts"),
    "dimensions": (header(tensors=1) + text("t") + struct.pack("<I", 9) + bytes(99), "9 dimensions"),
    "tensor type": (padded(header(tensors=1) + tensor("t", (32,), kind=999), 128), "unknown type 999"),
    "empty tensor": (padded(header(tensors=1) + tensor("t", (32, 0)), 128), "t is empty"),
    "product": (padded(header(tensors=1) + tensor("t", (2**40, 2**40)), 128), "cut short"),
    "offset": (padded(header(tensors=1) + tensor("t", (32,), offset=HUGE // 32 * 32), 128), "cut short"),
    "unaligned": (padded(header(tensors=1) + tensor("t", (8,), offset=8), 128), "not a multiple of the alignment"),
    "same name": (padded(header(tensors=2) + tensor("t", (8,)) * 2, 128), "t occurs twice"),
    "overlap": (
        padded(header(tensors=2) + tensor("a", (16,)) + tensor("b", (8,), offset=32), 128),
        "tensors a and b overlap",
    ),
    "data cut": (padded(header(tensors=1) + tensor("t", (32,)), 100), "cut short: tensor t ends at byte"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_told_in_one_line(lie, tmp_path):
    data, says = LIES[lie]
    path = tmp_path / "lie.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        GGUFFile(path)
    message = str(caught.value)
    assert says in message
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelFileError, match=str(path)):
            GGUFFile(path)


def read_all(path: Path) -> None:
    """Whatever the bytes: it reads, or it is a ModelFileError."""
    with contextlib.suppress(ModelFileError), np.errstate(all="ignore"):
        file = GGUFFile(path)
        for name in file.tensors:
            file.dequantize(name)
        file.summary()


@settings(max_examples=300)
@given(data=st.data())
def test_any_damage_is_a_model_file_error(small, data):
    original = small.read_bytes()
    damaged = bytearray(original[: data.draw(st.integers(0, len(original)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if not damaged:
            break
        at = data.draw(st.integers(0, len(damaged) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)]))
        damaged[at : at + len(patch)] = patch
    path = small.with_name("damaged.gguf")
    path.unlink(missing_ok=True)
    path.write_bytes(damaged)
    read_all(path)


def test_every_truncation_of_the_header_is_a_model_file_error(small, tmp_path):
    original = small.read_bytes()
    for end in range(0, len(original) - 32, 7):
        path = tmp_path / "cut.gguf"
        path.write_bytes(original[:end])
        with pytest.raises(ModelFileError):
            GGUFFile(path)


def test_a_vocabulary_parses_fast(tmp_path):
    """Counted in steps of the interpreter, not in seconds: a few for each of 50,000 words."""
    words = [f"word{number}" for number in range(50_000)]
    path = write(tmp_path / "words.gguf", {}, **{"tokenizer.ggml.tokens": ("add_array", words)})
    calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        file = GGUFFile(path)
    finally:
        sys.setprofile(None)
    assert file.metadata["tokenizer.ggml.tokens"] == words
    assert calls < 5 * len(words)


def test_reading_needs_no_torch():
    code = "import sys, modelworks.core.gguf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
