"""Tokenizers from GGUF metadata, against transformers, the SentencePiece library and llama.cpp."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelworks.core.errors import ModelFileError
from modelworks.text.tokenizer import Tokenizer

# From llama.cpp (xllamacpp 2026.10) on the starter file. transformers 5.24 knows no pre-tokenizer named "smollm" and
# takes GPT-2's, which leaves the space before a numeral with it: it differs on the second text. SmolLM2's own
# tokenizer.json makes each numeral a word.
LLAMA_CPP = {
    "Hello  world 12345 <|im_end|>": [19556, 216, 905, 216, 33, 34, 35, 36, 37, 2067, 108, 306, 79, 486, 108, 46],
    "½ ¼ ² ③": [16738, 216, 28151, 216, 19133, 216, 173, 235, 112],
    "2024年 😀": [34, 32, 34, 36, 32090, 129, 40303, 218],
}


def write_gguf(path: Path, metadata: dict[str, Any]) -> Path:
    """A GGUF file with a tokenizer and no tensors, for transformers to read."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "context_length": 64,
        "embedding_length": 8,
        "block_count": 1,
        "feed_forward_length": 8,
        "attention.head_count": 1,
    }.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def transformers_tokenizer(path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(path.parent), gguf_file=path.name)


def test_smollm_equals_transformers(smollm: Tokenizer, smollm_file: Path, texts: list[str]) -> None:
    oracle = transformers_tokenizer(smollm_file)
    numerals = "½ ¼ ² ³ ① ② Ⅷ ⅻ"  # see LLAMA_CPP
    for text in texts:
        if text != numerals:
            expected = oracle.encode(text, add_special_tokens=False)
            assert smollm.encode(text, parse_special=True) == expected, text
            literal = oracle.encode(text, add_special_tokens=False, split_special_tokens=True)
            assert smollm.encode(text) == literal, text


def test_smollm_equals_llama_cpp(smollm: Tokenizer) -> None:
    for text, ids in LLAMA_CPP.items():
        assert smollm.encode(text) == ids


def test_smollm_builds_well_under_a_second(smollm_metadata: dict[str, Any]) -> None:
    def build() -> float:
        start = time.process_time()
        Tokenizer.from_gguf(smollm_metadata)
        return time.process_time() - start

    assert min(build() for _ in range(3)) < 0.8  # about 0.2 s


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o"])
def test_pre_tokenizers_equal_transformers(
    pre: str, byte_bpe_metadata: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    metadata = byte_bpe_metadata | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
    ours = Tokenizer.from_gguf(metadata)
    oracle = transformers_tokenizer(write_gguf(tmp_path / "tiny.gguf", metadata))
    for text in texts:
        assert ours.encode(text, parse_special=True) == oracle.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("gpt-2", "it's 1234  x\n\ny", ["it", "'s", " 1234", " ", " x", "\n", "\n", "y"]),
        ("smollm", "it's 1234", ["it", "'s", " ", "1", "2", "3", "4"]),
        ("llama-bpe", "IT'S 12345 a.\n\nb", ["IT", "'S", " ", "123", "45", " a", ".\n\n", "b"]),
        ("qwen2", "x 123 (y)", ["x", " ", "1", "2", "3", " (", "y", ")"]),
        ("tekken", "jsonParser JSONParser a/b", ["json", "Parser", " JSONParser", " a", "/b"]),
        ("gpt-4o", "I'm 12345", ["I'm", " ", "123", "45"]),
        ("deepseek-v3", "a 12345日本x", ["a", " ", "123", "45", "日本", "x"]),
    ],
)
def test_words_of_each_pre_tokenizer(pre: str, text: str, words: list[str], byte_bpe_metadata: dict[str, Any]) -> None:
    backend = Tokenizer.from_gguf(byte_bpe_metadata | {"tokenizer.ggml.pre": pre}).backend
    spans = [span for _, span in backend.pre_tokenizer.pre_tokenize_str(text)]
    assert [text[start:end] for start, end in spans] == words


def test_unstated_pre_tokenizer_is_gpt2s_with_a_warning(
    byte_bpe_metadata: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from modelworks.core.log import console, warn_once

    warn_once.cache_clear()
    console.cache_clear()
    unstated = Tokenizer.from_gguf(byte_bpe_metadata)
    assert "tokenizer.ggml.pre" in capsys.readouterr().err
    console.cache_clear()
    gpt2 = Tokenizer.from_gguf(byte_bpe_metadata | {"tokenizer.ggml.pre": "gpt-2"})
    assert unstated.encode("it's 12 ² x") == gpt2.encode("it's 12 ² x")


def test_ignore_merges_takes_a_whole_word() -> None:
    tokens = ["<|end|>", *"abc", "abc"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 1, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
    }
    with pytest.raises(ModelFileError, match="merges do not fit"):
        Tokenizer.from_gguf(metadata | {"tokenizer.ggml.pre": "llama-bpe"})
    metadata |= {"tokenizer.ggml.tokens": [*tokens, "ab"], "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1]}
    assert Tokenizer.from_gguf(metadata | {"tokenizer.ggml.pre": "llama-bpe"}).encode("abc") == [4]
    assert Tokenizer.from_gguf(metadata | {"tokenizer.ggml.pre": "gpt-2"}).encode("abc") == [5, 3]


def test_sentencepiece_equals_the_reference(
    sentencepiece_metadata: dict[str, Any], sentencepiece_model: Path, texts: list[str]
) -> None:
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    ours = Tokenizer.from_gguf(sentencepiece_metadata)
    compared = 0
    for text in texts:
        if "\x00" in text:  # the reference's strings end there
            continue
        assert ours.encode(text, add_special=False) == reference.encode(text), text
        compared += 1
    assert compared > 100


def test_sentencepiece_without_prefix_space(sentencepiece_metadata: dict[str, Any]) -> None:
    ours = Tokenizer.from_gguf(sentencepiece_metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert not ours.adds_prefix_space
    assert ours.decode(ours.encode(" leading")) == " leading"
    assert ours.decode(ours.encode("leading")) == "leading"


def test_merges_never_lead_to_a_control_token() -> None:
    tokens = ["<unk>", "<s>", "</s>", "<", "s", ">", "s>", "a"]
    ours = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * len(tokens),
            "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_space_prefix": False,
        }
    )
    assert ours.encode("a<s>a", add_special=False) == [7, 3, 6, 7]
    assert ours.encode("a<s>a", add_special=False, parse_special=True) == [7, 1, 7]


def test_word_piece_equals_the_folder_it_was_made_of(minilm_folder: Path, texts: list[str]) -> None:
    folder = Tokenizer.from_folder(minilm_folder)
    vocabulary = folder.backend.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = [token.startswith("[") and token.endswith("]") and len(token) > 2 for token in tokens]
    marked = [
        token if whole else token[2:] if token.startswith("##") else f"▁{token}"
        for token, whole in zip(tokens, special)
    ]
    control = folder.control_ids
    ours = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": marked,
            "tokenizer.ggml.token_type": [3 if index in control else 1 for index in range(len(tokens))],
            "tokenizer.ggml.seperator_token_id": vocabulary["[SEP]"],
            "tokenizer.ggml.padding_token_id": vocabulary["[PAD]"],
            "tokenizer.ggml.unknown_token_id": vocabulary["[UNK]"],
        }
    )
    for text in texts:
        assert ours.encode(text) == folder.encode(text), text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "'rwkv'"),
        ({"tokenizer.ggml.model": None}, "None"),
        ({"tokenizer.ggml.pre": "made-up"}, "'made-up'"),
        ({"tokenizer.ggml.tokens": []}, "no vocabulary"),
        ({"tokenizer.ggml.merges": []}, "without merges"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "2 entries"),
        ({"tokenizer.ggml.eos_token_id": 10**9}, "1000000000"),
        ({"tokenizer.ggml.bos_token_id": -1}, "bos_token_id is -1"),
        ({"tokenizer.ggml.model": "llama"}, "without scores"),
        ({"tokenizer.ggml.tokens": [1] * 900}, "tokens has entries that are not str"),
        ({"tokenizer.ggml.token_type": ["x"]}, "token_type has entries"),
        ({"tokenizer.ggml.merges": ["ab"]}, "merges do not fit"),
        ({"tokenizer.ggml.merges": ["a 日本"]}, "merges do not fit"),
        ({"tokenizer.ggml.pre": ["gpt-2"]}, "pre is list"),
        ({"tokenizer.ggml.add_bos_token": "yes"}, "add_bos_token is str"),
        ({"tokenizer.ggml.eos_token_id": "2"}, "eos_token_id is str"),
        ({"tokenizer.chat_template": 5}, "chat_template is int"),
    ],
)
def test_bad_metadata_is_named(change: dict[str, Any], message: str, byte_bpe_metadata: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=message):
        Tokenizer.from_gguf(byte_bpe_metadata | {"tokenizer.ggml.pre": "gpt-2"} | change)


def test_numpy_values(byte_bpe_metadata: dict[str, Any], sentencepiece_metadata: dict[str, Any]) -> None:
    for metadata in (byte_bpe_metadata | {"tokenizer.ggml.pre": "gpt-2"}, sentencepiece_metadata):
        types = np.array(metadata["tokenizer.ggml.token_type"], dtype=np.int32)
        changed: dict[str, Any] = {"tokenizer.ggml.token_type": types, "tokenizer.ggml.eos_token_id": np.uint32(2)}
        changed["tokenizer.ggml.add_bos_token"] = np.bool_(False)
        if "tokenizer.ggml.scores" in metadata:
            changed["tokenizer.ggml.scores"] = np.array(metadata["tokenizer.ggml.scores"], dtype=np.float32)
        plain = Tokenizer.from_gguf(
            metadata | {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": False}
        )
        tokenizer = Tokenizer.from_gguf(metadata | changed)
        assert tokenizer.encode("Hello, 日本") == plain.encode("Hello, 日本")
        assert tokenizer.stop_ids == plain.stop_ids


def test_duplicate_token_is_named(byte_bpe_metadata: dict[str, Any]) -> None:
    tokens = [*byte_bpe_metadata["tokenizer.ggml.tokens"][:-1], "A"]
    with pytest.raises(ModelFileError, match="'A' twice"):
        Tokenizer.from_gguf(byte_bpe_metadata | {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens})
