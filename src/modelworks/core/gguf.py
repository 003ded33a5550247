"""Reading GGUF files: metadata, packed tensors, and their de-quantisation, without torch.

The format is llama.cpp's (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little-endian.
A file is not trusted: every count and length that it states is held against the bytes that are there before anything
is allocated, so a damaged or hostile file ends in a `ModelFileError` and nothing else.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ModelFileError

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_NESTING = 4  # arrays of arrays: none is known to be deeper than 2
_CHUNK = 1 << 17  # elements de-quantised at a time: the scratch arrays of the block formulas stay in the L2 cache

# GGUF value types (gguf_type) by number. Arrays of them are read with the same letters by numpy.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_K_QUANTS = frozenset({"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"})


class TensorType(IntEnum):
    """How a tensor's values are packed: blocks of so many values, each of so many bytes (ggml_type, type_traits).

    The table is our own since the `gguf` package, which de-quantises the rarer types, takes 7 MB to import.
    """

    block_size: int
    block_bytes: int

    def __new__(cls, number: int, block_size: int, block_bytes: int) -> TensorType:
        kind = int.__new__(cls, number)
        kind._value_ = number
        kind.block_size, kind.block_bytes = block_size, block_bytes
        return kind

    F32 = 0, 1, 4
    F16 = 1, 1, 2
    Q4_0 = 2, 32, 18
    Q4_1 = 3, 32, 20
    Q5_0 = 6, 32, 22
    Q5_1 = 7, 32, 24
    Q8_0 = 8, 32, 34
    Q8_1 = 9, 32, 40
    Q2_K = 10, 256, 84
    Q3_K = 11, 256, 110
    Q4_K = 12, 256, 144
    Q5_K = 13, 256, 176
    Q6_K = 14, 256, 210
    Q8_K = 15, 256, 292
    IQ2_XXS = 16, 256, 66
    IQ2_XS = 17, 256, 74
    IQ3_XXS = 18, 256, 98
    IQ1_S = 19, 256, 50
    IQ4_NL = 20, 32, 18
    IQ3_S = 21, 256, 110
    IQ2_S = 22, 256, 82
    IQ4_XS = 23, 256, 136
    I8 = 24, 1, 1
    I16 = 25, 1, 2
    I32 = 26, 1, 4
    I64 = 27, 1, 8
    F64 = 28, 1, 8
    IQ1_M = 29, 256, 56
    BF16 = 30, 1, 2
    TQ1_0 = 34, 256, 54
    TQ2_0 = 35, 256, 66
    MXFP4 = 39, 32, 17
    NVFP4 = 40, 64, 36
    Q1_0 = 41, 128, 18


_TYPES = {int(kind): kind for kind in TensorType}


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """Where a tensor lies and how it is packed.

    `shape` is in torch's order (rows first), the reverse of the file's; `offset` counts from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.size


@dataclass(frozen=True, slots=True)
class GGUFSummary:
    """What a file holds, as opposed to what its name promises."""

    architecture: str
    file_type: str
    """The promise: the name of `general.file_type`, such as `MOSTLY_Q4_K_M`."""
    parameters: int
    bits_per_weight: float
    types: dict[str, int]
    """Parameters held by each tensor type, largest share first."""
    tensors: dict[str, tuple[str, float]]
    """Each tensor's type and its bits per weight."""
    fallbacks: tuple[str, ...]
    """Matrices of a K-quant file that are stored otherwise, since their rows do not divide by 256."""

    def __str__(self) -> str:
        share = ", ".join(f"{name} {count / self.parameters:.0%}" for name, count in self.types.items())
        text = (
            f"{self.architecture}, {self.parameters / 1e6:.1f}M parameters, {self.file_type}: "
            f"{self.bits_per_weight:.2f} bits per weight ({share})"
        )
        if self.fallbacks:
            text += f"; {len(self.fallbacks)} matrices are not K-quants, as their rows do not divide by 256"
        return text


class GGUFFile:
    """A GGUF file, memory-mapped: `metadata` by key and `tensors` by name.

    Raises `ModelFileError` for a file that is missing, cut short, damaged or of an unknown kind. With `strict`, also
    for a K-quant file in which some matrices had to be stored as something else (see `GGUFSummary.fallbacks`).
    """

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def __init__(self, path: str | Path, *, strict: bool = False) -> None:
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
            # numpy cannot map an empty file; the header check below then says what is wrong with it.
            # Copy-on-write, so that torch takes the arrays without a warning; the file is never written.
            mapped = np.memmap(self.path, np.uint8, mode="c") if size else np.empty(0, dtype=np.uint8)
            self._bytes: NDArray[np.uint8] = mapped.view(np.ndarray)  # memmap's own slicing is several times slower
        except OSError as error:
            raise ModelFileError(f"{self.path}: {error.strerror or error}") from error
        parser = _Parser(self.path, self._bytes.data)
        self.version, tensor_count, key_count = parser.header()
        self.metadata = parser.metadata(key_count)
        self.tensors = parser.tensors(tensor_count, self._alignment())
        if (parts := self.metadata.get("split.count")) and parts != 1:
            raise self._error(f"one of the {parts} parts of a split model; join them with llama-gguf-split --merge")
        if strict and (fallbacks := self.summary().fallbacks):
            raise self._error(
                f"{len(fallbacks)} matrices, such as {fallbacks[0]}, are not K-quants: their rows do not divide by 256"
            )

    def _error(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what}")

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment % 8:
            raise self._error(f"general.alignment is {alignment!r}, expected a positive multiple of 8")
        return alignment

    @property
    def architecture(self) -> str:
        """The model family's name, such as `llama`."""
        name = self.metadata.get("general.architecture")
        if not isinstance(name, str):
            raise self._error("general.architecture is missing")
        return name

    def blocks(self, name: str) -> NDArray[np.uint8]:
        """A tensor's packed bytes, mapped and not copied, as (rows, bytes per row); a vector is one row."""
        tensor = self.tensors[name]
        rows = math.prod(tensor.shape[:-1])
        return self._bytes[tensor.offset : tensor.offset + tensor.nbytes].reshape(rows, -1)

    def dequantize(self, name: str) -> NDArray[np.float32]:
        """A whole tensor as float32, in its shape."""
        tensor = self.tensors[name]
        values = np.empty((math.prod(tensor.shape[:-1]), tensor.shape[-1]), dtype=np.float32)
        for start, piece in self.pieces(name):
            values[start : start + len(piece)] = piece
        return values.reshape(tensor.shape)

    def pieces(self, name: str, order: NDArray[np.intp] | None = None) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield a tensor's rows as float32 pieces, each (rows, columns), with the index of the first row.

        A piece is about half a megabyte, so that filling a parameter needs no second copy of it. `order` gives the
        rows in another order; blocks run along a row, so moving packed rows is moving the weights.
        """
        tensor = self.tensors[name]
        blocks = self.blocks(name)
        step = max(1, _CHUNK // tensor.shape[-1])
        unpack = _UNPACKED.get(tensor.type)
        for start in range(0, len(blocks), step):
            rows = blocks[start : start + step] if order is None else blocks[order[start : start + step]]
            try:
                values = unpack(rows) if unpack else _dequantized(rows, tensor.type)
            except NotImplementedError as error:
                raise self._error(f"tensor {name} is of type {tensor.type.name}, which is not supported") from error
            yield start, values.reshape(len(rows), tensor.shape[-1])

    def summary(self) -> GGUFSummary:
        """Each tensor's type and the real bits per weight of the whole."""
        import gguf

        types: Counter[str] = Counter()
        for tensor in self.tensors.values():
            types[tensor.type.name] += tensor.size
        parameters = sum(types.values())
        number = self.metadata.get("general.file_type")
        known = {int(kind): kind.name for kind in gguf.LlamaFileType}
        file_type = known.get(number, f"unknown ({number})") if isinstance(number, int) else "unknown"
        promised_k = "_K" in file_type
        return GGUFSummary(
            architecture=self.architecture,
            file_type=file_type,
            parameters=parameters,
            bits_per_weight=8 * sum(t.nbytes for t in self.tensors.values()) / max(parameters, 1),
            types=dict(types.most_common()),
            tensors={t.name: (t.type.name, t.bits_per_weight) for t in self.tensors.values()},
            fallbacks=tuple(
                t.name
                for t in self.tensors.values()
                if promised_k
                and len(t.shape) > 1
                and t.shape[-1] % TensorType.Q4_K.block_size
                and t.type.name not in _K_QUANTS
            ),
        )


def _dequantized(rows: NDArray[np.uint8], kind: TensorType) -> NDArray[np.float32]:
    """By the `gguf` package. Raises NotImplementedError for a type that it does not know."""
    import gguf

    # As one long row: it works through groups of 16 rows, which is slow where rows are short.
    values: NDArray[np.float32] = gguf.dequantize(rows.reshape(1, -1), gguf.GGMLQuantizationType(kind))
    return values


def _q4_1(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Q4_1: 32 weights of 4 bits, w = d q + m with fp16 d, m; low nibbles hold the first 16.

    Five times the speed of gguf's own, bit for bit the same; the starter model is of this type.
    """
    blocks = rows.reshape(-1, TensorType.Q4_1.block_bytes)
    d_m = blocks[:, :4].copy().view(np.float16).astype(np.float32)
    values = np.empty((len(blocks), 32), dtype=np.float32)
    values[:, :16] = blocks[:, 4:] & 15
    values[:, 16:] = blocks[:, 4:] >> 4
    values *= d_m[:, :1]
    values += d_m[:, 1:]
    return values


_UNPACKED: dict[TensorType, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    TensorType.F32: lambda rows: rows.view(np.float32),
    TensorType.F16: lambda rows: rows.view(np.float16).astype(np.float32),
    TensorType.BF16: lambda rows: (rows.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32),
    TensorType.Q4_1: _q4_1,
}


class _Parser:
    """A cursor over the file's bytes that refuses to read or believe beyond their end."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path = path
        self.view = view
        self.position = 0

    def fail(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: not a readable GGUF file: {what}")

    def need(self, nbytes: int, what: str) -> None:
        left = len(self.view) - self.position
        if nbytes > left:
            self.fail(f"{what} needs {nbytes} bytes at offset {self.position}, but only {left} are left")

    def unpack(self, letters: str, what: str) -> tuple[Any, ...]:
        layout = f"<{letters}"
        nbytes = struct.calcsize(layout)
        self.need(nbytes, what)
        values = struct.unpack_from(layout, self.view, self.position)
        self.position += nbytes
        return values

    def header(self) -> tuple[int, int, int]:
        """Version, number of tensors, number of metadata keys."""
        if bytes(self.view[:4]) != MAGIC:
            self.fail("it does not start with GGUF" if len(self.view) else "it is empty")
        self.position = 4
        (version,) = self.unpack("I", "the version")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            self.fail("it is big-endian" if swapped in (2, 3) else f"version {version}, supported are 2 and 3")
        tensors, keys = self.unpack("QQ", "the header")
        # The least an entry can take: a key is a length, a type and one byte; a tensor a length, dimensions, an offset.
        self.count(keys, 13, "metadata keys")
        self.count(tensors, 24, "tensors")
        return version, tensors, keys

    def count(self, number: int, least_bytes: int, what: str) -> None:
        left = len(self.view) - self.position
        if number * least_bytes > left:
            self.fail(f"it claims {number} {what}, more than its {left} remaining bytes can hold")

    def string(self, what: str) -> str:
        (length,) = self.unpack("Q", what)
        self.need(length, what)
        start = self.position
        self.position += length
        try:
            return str(self.view[start : self.position], "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    def strings(self, number: int, what: str) -> list[str]:
        # Vocabularies have up to 300,000 entries, so this loop is written for speed, with `string` spelled out.
        view, position, end = self.view, self.position, len(self.view)
        length = struct.Struct("<Q").unpack_from
        found: list[str] = []
        try:
            for _ in range(number):
                start = position + 8
                if start > end or (position := start + length(view, position)[0]) > end:
                    self.fail(f"{what} is cut short")
                found.append(str(view[start:position], "utf-8"))
        except UnicodeDecodeError:
            self.fail(f"an entry of {what} is not UTF-8")
        self.position = position
        return found

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if letter := _SCALARS.get(kind):
            return self.unpack(letter, what)[0]
        if kind == _STRING:
            return self.string(what)
        if kind != _ARRAY:
            self.fail(f"{what} has the unknown value type {kind}")
        if depth == MAX_NESTING:
            self.fail(f"{what} nests arrays more than {MAX_NESTING} deep")
        element, number = self.unpack("IQ", what)
        if letter := _SCALARS.get(element):
            dtype = np.dtype(f"<{letter}" if letter != "?" else "?")
            self.count(number, dtype.itemsize, f"elements of {what}")
            array = np.frombuffer(self.view, dtype, number, self.position)
            self.position += array.nbytes
            return array.tolist()
        if element == _STRING:
            self.count(number, 8, f"elements of {what}")
            return self.strings(number, what)
        self.count(number, 12, f"elements of {what}")
        return [self.value(element, what, depth + 1) for _ in range(number)]

    def metadata(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index in range(number):
            key = self.string(f"the name of metadata key {index}")
            if key in found:
                self.fail(f"metadata key {key} occurs twice")
            (kind,) = self.unpack("I", f"the type of {key}")
            found[key] = self.value(kind, key)
        return found

    def tensors(self, number: int, alignment: int) -> dict[str, GGUFTensor]:
        described = [self.tensor(index) for index in range(number)]
        data_start = -(-self.position // alignment) * alignment
        found: dict[str, GGUFTensor] = {}
        for name, shape, kind, offset, nbytes in described:
            if name in found:
                self.fail(f"tensor {name} occurs twice")
            if offset % alignment:
                self.fail(f"tensor {name} starts at {offset}, which is not a multiple of the alignment {alignment}")
            found[name] = GGUFTensor(name, shape, kind, data_start + offset, nbytes)
        taken, before = data_start, ""
        for tensor in sorted(found.values(), key=lambda tensor: tensor.offset):
            if tensor.offset < taken:
                self.fail(f"tensors {before} and {tensor.name} overlap")
            taken, before = tensor.offset + tensor.nbytes, tensor.name
            if taken > len(self.view):
                self.fail(
                    f"it is cut short: tensor {tensor.name} ends at byte {taken}, the file at {len(self.view)}; "
                    "download it again"
                )
        return found

    def tensor(self, index: int) -> tuple[str, tuple[int, ...], TensorType, int, int]:
        name = self.string(f"the name of tensor {index}")
        (dimensions,) = self.unpack("I", f"the shape of tensor {name}")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self.fail(f"tensor {name} has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}")
        shape = self.unpack("Q" * dimensions, f"the shape of tensor {name}")[::-1]
        number, offset = self.unpack("IQ", f"the type of tensor {name}")
        if (kind := _TYPES.get(number)) is None:
            self.fail(f"tensor {name} has the unknown type {number}")
        if 0 in shape:
            self.fail(f"tensor {name} is empty, its shape is {shape}")
        if shape[-1] % kind.block_size:
            self.fail(f"tensor {name} has rows of {shape[-1]}, but {kind.name} packs blocks of {kind.block_size}")
        return name, shape, kind, offset, math.prod(shape) // kind.block_size * kind.block_bytes
