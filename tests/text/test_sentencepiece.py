from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modelworks.core.errors import ModelFileError
from modelworks.text.tokenizer import Tokenizer


def test_model_file_equals_the_reference(sentencepiece_model: Path, texts: list[str]) -> None:
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    ours = Tokenizer.from_folder(sentencepiece_model.parent)
    assert (ours.bos_id, ours.eos_id, ours.unk_id) == (1, 2, 0)
    assert ours.vocab_size == reference.get_piece_size()
    for text in texts:
        if "\x00" not in text:  # the reference's strings end there
            ids = reference.encode(text)
            assert ours.encode(text) == [1, *ids], text
            assert ours.decode(ids) == reference.decode(ids), text


def test_model_file_equals_its_gguf(
    sentencepiece_model: Path, sentencepiece_metadata: dict[str, Any], texts: list[str]
) -> None:
    file, gguf = Tokenizer.from_folder(sentencepiece_model.parent), Tokenizer.from_gguf(sentencepiece_metadata)
    assert [file.encode(text) for text in texts] == [gguf.encode(text) for text in texts]


def test_flags_say_what_is_put_around_a_text(sentencepiece_model: Path, tmp_path: Path) -> None:
    shutil.copy(sentencepiece_model, tmp_path)
    for add_bos in (True, False):
        for add_eos in (True, False):
            settings = {"add_bos_token": add_bos, "add_eos_token": add_eos}
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
            tokenizer = Tokenizer.from_folder(tmp_path)
            core = tokenizer.encode("hello", add_special=False)
            assert tokenizer.encode("hello") == [1] * add_bos + core + [2] * add_eos


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram"}, "algorithm is unigram"),
        ({"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"}, "normalises text"),
    ],
)
def test_unsupported_kinds_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    spm = pytest.importorskip("sentencepiece")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words to learn from", "and some more of them"] * 20),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    with pytest.raises(ModelFileError, match=message):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"IQ== 0\nIg== 1\n", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 40, bytes(range(256))]
)
def test_other_files_of_that_name_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelFileError, match="not a SentencePiece model"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(fraction: float, sentencepiece_model: Path, tmp_path: Path) -> None:
    shutil.copy(sentencepiece_model, tmp_path)
    data = sentencepiece_model.read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(ModelFileError):
        Tokenizer.from_folder(tmp_path)
