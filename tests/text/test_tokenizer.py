from __future__ import annotations

import copy
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from modelworks.core.errors import ModelFileError
from modelworks.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def byte_bpe(byte_bpe_metadata: dict[str, Any]) -> Tokenizer:
    """BOS, EOS, a distinct pad; BOS is added."""
    return Tokenizer.from_gguf(byte_bpe_metadata | {"tokenizer.ggml.pre": "llama-bpe"})


@pytest.fixture(scope="module")
def spm(sentencepiece_metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(sentencepiece_metadata)


def from_transformers(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


# --- special tokens ---------------------------------------------------------------------------------------------------


def test_smollm_special_tokens(smollm: Tokenizer) -> None:
    assert (smollm.bos_id, smollm.eos_id, smollm.unk_id) == (1, 2, 0)
    assert not smollm.add_bos
    assert not smollm.add_eos
    assert smollm.stop_ids == {0, 2}
    assert smollm.vocab_size == 49152


def test_chat_markers_are_one_id(smollm: Tokenizer) -> None:
    """efficient.md 5; llama.cpp#3966, vllm#12985."""
    assert smollm.encode("<|im_start|>", parse_special=True) == [1]
    assert smollm.encode("a<|im_end|>\n", parse_special=True)[1] == 2


def test_pad_is_never_eos(smollm: Tokenizer, smollm_metadata: dict[str, Any]) -> None:
    """training.md 4; trl#1623. The starter file itself pads with EOS."""
    assert smollm_metadata["tokenizer.ggml.padding_token_id"] == smollm_metadata["tokenizer.ggml.eos_token_id"]
    assert smollm.pad_id == 0 != smollm.eos_id


def test_pad_is_none_where_only_eos_is_left(byte_bpe_metadata: dict[str, Any]) -> None:
    metadata = byte_bpe_metadata | {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.bos_token_id": 0}
    tokens = ["<|end|>", *metadata["tokenizer.ggml.tokens"][4:]]
    metadata |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
    }
    assert Tokenizer.from_gguf(metadata).pad_id is None


def test_bos_is_there_once(byte_bpe: Tokenizer) -> None:
    """training.md 3; trl#1400."""
    bos = byte_bpe.bos_id
    once = byte_bpe.encode("hello")
    assert once[0] == bos
    assert once.count(bos) == 1
    assert byte_bpe.encode("<|endoftext|>hello", parse_special=True) == once
    assert byte_bpe.encode("hello", add_special=False) == once[1:]
    assert byte_bpe.encode_batch(["hello", "<|endoftext|>hello"], parse_special=True) == [once, once]


def test_add_bos_and_add_eos_of_the_file_are_honoured(byte_bpe_metadata: dict[str, Any]) -> None:
    metadata = byte_bpe_metadata | {"tokenizer.ggml.pre": "llama-bpe"}
    bos, eos = metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]
    for add_bos in (True, False):
        for add_eos in (True, False):
            flags = {"tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.add_eos_token": add_eos}
            tokenizer = Tokenizer.from_gguf(metadata | flags)
            core = tokenizer.encode("hello", add_special=False)
            assert tokenizer.encode("hello") == [bos] * add_bos + core + [eos] * add_eos
            assert (tokenizer.add_bos, tokenizer.add_eos) == (add_bos, add_eos)


# --- user text --------------------------------------------------------------------------------------------------------


@given(
    parts=st.lists(
        st.one_of(
            st.text(), st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_", "end|>", "<file_sep>"])
        )
    )
)
def test_text_never_becomes_a_control_token(smollm: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = smollm.encode(text)
    assert smollm.control_ids.isdisjoint(ids)
    # SmolLM2's vocabulary lacks 21 bytes that its training text did not have; like its authors', ours drops them.
    known = {smollm.token_bytes(index) for index in range(smollm.vocab_size)}
    spelled = bytes(byte for byte in text.encode() if bytes([byte]) in known)
    assert b"".join(map(smollm.token_bytes, ids)) == spelled
    assert smollm.encode_batch([text]) == [ids]


def test_a_control_token_that_is_also_a_word_is_cut() -> None:
    """A unigram vocabulary has its control tokens among its pieces, and finds them by their letters."""
    pieces = [("<unk>", 0.0), ("</s>", -1.0), ("<", -3.0), ("/", -3.0), ("s", -3.0), (">", -3.0), ("a", -3.0)]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    tokenizer = Tokenizer(backend, eos_id=1, unk_id=0)
    assert tokenizer.encode("a</s>a", parse_special=True) == [6, 1, 6]
    ids, offsets = tokenizer.encode_with_offsets("a</s>a")
    assert ids == [6, 2, 3, 4, 5, 6]
    assert offsets == [(at, at + 1) for at in range(6)]
    assert tokenizer.encode_batch(["a</s>a", "a"]) == [ids, [6]]


def test_broken_surrogates_are_text(smollm: Tokenizer) -> None:
    assert smollm.decode(smollm.encode("a\ud83d b\udc00")) == "a\ufffd b\ufffd"
    assert smollm.encode_batch(["\ud800"]) == [smollm.encode("\ufffd")]


def test_threads_do_not_disturb_each_other(smollm: Tokenizer) -> None:
    text = "x <|im_end|> y " * 20
    parsed, literal = smollm.encode(text, parse_special=True), smollm.encode(text)
    wrong: list[str] = []

    def work(parse: bool) -> None:
        for _ in range(200):
            if smollm.encode(text, parse_special=parse) != (parsed if parse else literal):
                wrong.append("parsed" if parse else "literal")

    threads = [threading.Thread(target=work, args=(bool(n % 2),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_copies_work(smollm: Tokenizer) -> None:
    for copied in (copy.deepcopy(smollm), pickle.loads(pickle.dumps(smollm))):
        assert copied.encode("a <|im_end|>", parse_special=True) == smollm.encode("a <|im_end|>", parse_special=True)
        assert copied.encode("a <|im_end|>") == smollm.encode("a <|im_end|>")
        assert copied.stop_ids == smollm.stop_ids


@given(text=st.text())
def test_offsets_cover_the_text_in_order(byte_bpe: Tokenizer, text: str) -> None:
    ids, offsets = byte_bpe.encode_with_offsets(text)
    assert ids == byte_bpe.encode(text, add_special=False)
    assert offsets == sorted(offsets)
    assert {at for start, end in offsets for at in range(start, end)} == set(range(len(text)))


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_texts_come_back(smollm: Tokenizer, byte_bpe: Tokenizer, texts: list[str]) -> None:
    for tokenizer in (smollm, byte_bpe):
        for text in texts:
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_sentencepiece_texts_come_back(spm: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        assert spm.decode(spm.encode(text)) == text.replace("▁", " ")


def test_token_bytes_join_to_the_text(smollm: Tokenizer, spm: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        ids = smollm.encode(text)
        assert b"".join(map(smollm.token_bytes, ids)) == text.encode()
        ids = spm.encode(text, add_special=False)
        spelled = b"".join(map(spm.token_bytes, ids)).decode()
        assert spelled == (" " + text.replace("▁", " ") if text else "")


def test_token_bytes_of_added_tokens_are_their_text(smollm: Tokenizer) -> None:
    assert smollm.token_bytes(2) == b"<|im_end|>"
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(["é"])  # a character of the byte alphabet, where it would be the byte E9
    assert Tokenizer(backend).token_bytes(1) == "é".encode()


def test_ids_beyond_the_vocabulary_spell_nothing(smollm: Tokenizer) -> None:
    assert smollm.token_bytes(smollm.vocab_size + 5) == b""
    assert smollm.decode([smollm.vocab_size + 5]) == ""


def test_word_piece_has_no_bytes(minilm_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(minilm_folder)
    with pytest.raises(ModelFileError, match="WordPiece"):
        tokenizer.token_bytes(2000)
    assert tokenizer.decode(tokenizer.encode("Hello, world")) == "hello, world"


# --- folders ----------------------------------------------------------------------------------------------------------


def test_minilm_equals_transformers(minilm_folder: Path, texts: list[str]) -> None:
    ours, oracle = Tokenizer.from_folder(minilm_folder), from_transformers(minilm_folder)
    assert (ours.pad_id, ours.unk_id) == (oracle.pad_token_id, oracle.unk_token_id)
    for text in texts:
        if not text.startswith("[CLS]"):  # to which transformers adds another
            assert ours.encode(text, parse_special=True) == oracle.encode(text), text
        plain = oracle.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text, add_special=False) == plain, text
    # The file keeps a limit of 128 tokens and padding to it, from its last use.
    assert len(ours.encode("word " * 300)) == 302
    assert ours.encode_batch(["a", "b c"]) == [ours.encode("a"), ours.encode("b c")]


@pytest.mark.parametrize("source", ["smollm", "byte_bpe", "spm", "minilm"])
def test_save_is_read_by_transformers_and_by_us(
    source: str, request: pytest.FixtureRequest, texts: list[str], tmp_path: Path
) -> None:
    if source == "minilm":
        tokenizer = Tokenizer.from_folder(request.getfixturevalue("minilm_folder"))
    else:
        tokenizer = request.getfixturevalue(source)
    tokenizer.save(tmp_path)
    oracle, again = from_transformers(tmp_path), Tokenizer.from_folder(tmp_path)
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(oracle, f"{name}_token_id") == getattr(tokenizer, f"{name}_id") == getattr(again, f"{name}_id")
    assert oracle.chat_template == tokenizer.chat_template == again.chat_template
    assert again.stop_ids == tokenizer.stop_ids
    assert len(oracle) == again.vocab_size == tokenizer.vocab_size
    for text in texts:
        ids = tokenizer.encode(text, parse_special=True)
        assert again.encode(text, parse_special=True) == ids
        core = oracle.encode(text, add_special_tokens=False)
        if core == [] or core[0] not in oracle.encode("")[:1]:  # transformers adds BOS and [CLS] all the same
            assert oracle.encode(text) == ids, text
        if source != "minilm" and "\ufffd" not in text:
            assert oracle.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids), text


def test_save_survives_a_config_beside_it(smollm: Tokenizer, tmp_path: Path, texts: list[str]) -> None:
    """With `model_type` known, transformers has a tokenizer class of its own in mind."""
    smollm.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    oracle = from_transformers(tmp_path)
    for text in texts:
        assert oracle.encode(text) == smollm.encode(text, parse_special=True), text


def test_tokenizer_json_says_what_is_put_around_a_text(byte_bpe: Tokenizer, tmp_path: Path) -> None:
    byte_bpe.save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    for add_bos, add_eos in ((True, True), (False, True), (False, False)):
        settings = json.loads(file.read_text())
        file.write_text(json.dumps(settings | {"add_bos_token": add_bos, "add_eos_token": add_eos}))
        assert Tokenizer.from_folder(tmp_path).encode("hello") == from_transformers(tmp_path).encode("hello")


def test_first_word_space_is_for_the_first_word(tmp_path: Path) -> None:
    """`Metaspace` with `first`, as in newer SentencePiece conversions: text after other text gets no space."""
    backend = tokenizers.Tokenizer(models.BPE({"▁": 0, "a": 1, "b": 2, "▁a": 3, "<s>": 4}, [("▁", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace("▁", prepend_scheme="first")
    backend.add_special_tokens(["<s>"])
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode("a<s>a", parse_special=True) == [3, 4, 1]
    assert tokenizer.encode_with_offsets("a")[0] == [3]
    assert tokenizer.encode_with_offsets("a", at_start=False)[0] == [1]
    assert tokenizer.decode([3, 1]) == "aa"


def test_template_file_and_named_templates(byte_bpe: Tokenizer, tmp_path: Path) -> None:
    byte_bpe.save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": named}))
    assert Tokenizer.from_folder(tmp_path).chat_template == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert Tokenizer.from_folder(tmp_path).chat_template == "J"


def test_eos_ids_of_the_generation_config_stop(byte_bpe: Tokenizer, tmp_path: Path) -> None:
    byte_bpe.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1]}))
    assert Tokenizer.from_folder(tmp_path).stop_ids >= {0, 1}
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.from_folder(tmp_path).eos_id == 0


def test_tokens_stated_as_objects(byte_bpe: Tokenizer, tmp_path: Path) -> None:
    byte_bpe.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    special = {"eos_token": {"content": "<|user|>", "lstrip": False}, "pad_token": "nowhere to be found"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.eos_id == tokenizer.control_id("<|user|>")
    assert tokenizer.pad_id == tokenizer.control_id("<|pad|>")


WORD_LEVEL = tokenizers.Tokenizer(models.WordLevel({"a": 0})).to_str()


def test_oddities_of_a_configuration_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(WORD_LEVEL)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": 5, "bos_token": ["x"], "pad_token": {"content": 3}}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": ["x", 0]}')
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 0, None)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer.json"),
        ({"tokenizer.json": "{"}, "tokenizer.json"),
        ({"tokenizer.json": "{}"}, "tokenizer.json"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "[1]"}, "tokenizer_config.json: not a JSON object"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{"}, "tokenizer_config.json"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "\xff"}, "tokenizer_config.json"),
        ({"tokenizer.json": WORD_LEVEL, "tokenizer_config.json": '{"chat_template": 5}'}, "chat_template is no text"),
    ],
)
def test_bad_folders_are_named(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelFileError, match=message):
        Tokenizer.from_folder(tmp_path)


def test_a_normalizer_does_not_move_the_frame() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.add_special_tokens(["[CLS]", "[SEP]"])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    assert Tokenizer(backend).encode("A") == [1, 0, 2]
