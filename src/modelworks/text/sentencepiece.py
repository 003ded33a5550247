"""Reading a SentencePiece `tokenizer.model`: a protocol buffer with a vocabulary, and how text is prepared for it.

Only the fields that a language model's BPE needs are read, so the protobuf library is not (wire format:
https://protobuf.dev/programming-guides/encoding/; message: sentencepiece_model.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from modelworks.core.errors import ModelFileError
from modelworks.text import gguf

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_ALGORITHMS: Final = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}


class _Malformed(ValueError):
    """The bytes are no protocol buffer."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Malformed
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The (number, value) pairs of a message: ints of varints, raw bytes of everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise _Malformed
        if at + size > len(data):
            raise _Malformed
        yield number, data[at : at + size]
        at += size


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, gguf.NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = value.decode()
        elif number == 2:
            (score,) = struct.unpack("<f", value)
        elif number == 3:
            kind = value
    return text, score, kind


def read(path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer in a `tokenizer.model`, and the arguments of `text.Tokenizer` beside it.

    Raises `ModelFileError` for a file of another kind (tiktoken's share the name), for an algorithm other than BPE, and
    for text normalisation beyond the prefix space.
    """
    try:
        top = list(_fields(path.read_bytes()))
        pieces = [_piece(value) for number, value in top if number == _PIECES]
        trainer = {number: value for kind, part in top if kind == _TRAINER for number, value in _fields(part)}
        normalizer = {number: value for kind, part in top if kind == _NORMALIZER for number, value in _fields(part)}
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    except (_Malformed, TypeError, AttributeError, UnicodeDecodeError, struct.error) as error:
        raise ModelFileError(f"{path}: not a SentencePiece model; a tokenizer.json is needed instead") from error
    if not pieces:
        raise ModelFileError(f"{path}: not a SentencePiece model; a tokenizer.json is needed instead")
    if (algorithm := trainer.get(3, 1)) != 2:
        what = _ALGORITHMS.get(algorithm, f"unknown ({algorithm})")
        raise ModelFileError(
            f"{path}: its algorithm is {what}, only BPE is supported; a tokenizer.json is needed instead"
        )
    if normalizer.get(2) or normalizer.get(4, 1):  # precompiled_charsmap, remove_extra_whitespaces
        raise ModelFileError(f"{path}: it normalises text before cutting it; a tokenizer.json is needed instead")
    tokens, scores, types = (list(column) for column in zip(*pieces))
    vocabulary = gguf.Vocabulary(tokens, types, scores, unk_id=types.index(gguf.UNKNOWN))
    backend = gguf.sentencepiece(vocabulary, add_prefix=bool(normalizer.get(3, 1)))
    # Proto defaults, where -1 (as a 64-bit varint) says that there is none.
    ids = {name: trainer.get(field, default) for name, field, default in (("bos_id", 41, 1), ("eos_id", 42, 2))}
    settings = {name: index if index < len(tokens) else None for name, index in ids.items()}
    return backend, settings | {"unk_id": vocabulary.unk_id}
