"""A trained tokenizer: exact in size, repeatable, reversible, and the same to transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, DataError
from modelworks.text.chat import render
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import ToolCall, ToolCallParser, native_notation
from modelworks.text.train import CHATML, train_tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog. " * 3,
    "Ein Tokenizer zählt Bytes; 日本語 und 😀 auch. " * 3,
    "def f(x):\n    return x + 1234567\n" * 3,
] * 4
SIZE = 340


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(TEXTS, SIZE)


def test_it_has_the_size_that_was_asked_for(trained: Tokenizer) -> None:
    assert trained.vocab_size == SIZE
    assert [trained.backend.id_to_token(index) for index in range(4)] == [
        "<|endoftext|>",
        "<|pad|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert trained.eos_id == 0
    assert trained.pad_id == 1
    assert trained.stop_ids == {0, 3}
    assert len(trained.encode("The quick brown fox")) < 12  # of 19 bytes: something was learned


@given(st.text())
def test_any_text_comes_back(trained: Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text)) == text.encode(errors="replace").decode()
    assert trained.control_ids.isdisjoint(trained.encode(text))


def test_digits_stand_alone(trained: Tokenizer) -> None:
    assert len(trained.encode("1234567")) == 7


def test_the_same_texts_make_the_same_tokenizer(trained: Tokenizer, tmp_path: Path) -> None:
    """In another process with other hash seeds, on one thread and on several."""
    code = (
        f"import os, pathlib\nfrom modelworks.text.train import train_tokenizer\n"
        f"folder = pathlib.Path({str(tmp_path)!r}, os.environ['RAYON_NUM_THREADS'])\n"
        f"train_tokenizer({TEXTS!r}, {SIZE}).save(folder)"
    )
    for threads in ("1", "3"):
        subprocess.run([sys.executable, "-c", code], env={"RAYON_NUM_THREADS": threads}, check=True, timeout=300)
        assert Tokenizer.from_folder(tmp_path / threads).backend.to_str() == trained.backend.to_str()


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "The dog?"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": "fox"}}}]},
    {"role": "tool", "content": "7"},
    {"role": "assistant", "content": "Lazy."},
]


def test_transformers_reads_it_alike(trained: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (oracle.eos_token_id, oracle.pad_token_id) == (0, 1)
    for text in [*TEXTS, "", " ", "unseen Ω <|im_end|"]:
        assert trained.encode(text) == again.encode(text) == oracle.encode(text)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    for offered in (None, tools):
        expected = oracle.apply_chat_template(MESSAGES, tools=offered, return_dict=False)
        assert render(again, MESSAGES, tools=offered).ids == expected


def test_its_template_writes_calls_as_they_are_read(trained: Tokenizer) -> None:
    notation = native_notation(trained)
    assert notation == "hermes"
    rendered = render(trained, MESSAGES)
    answers = "".join(
        trained.decode([index], skip_special=False) for index, counts in zip(rendered.ids, rendered.loss_mask) if counts
    )
    call, answer, rest = answers.split("<|im_end|>")
    parser = ToolCallParser(notation, {"f"})
    assert [*parser.push(call), *parser.flush()] == [ToolCall("f", '{"x": "fox"}')]
    assert (answer, rest) == ("Lazy.", "")


def test_special_tokens_and_no_template() -> None:
    plain = train_tokenizer(TEXTS, 300, special_tokens=["<|fim|>", "<|pad|>"], chat_template=None)
    assert plain.chat_template is None
    assert plain.control_id("<|fim|>") == 2
    assert "<|im_start|>" not in plain.backend.get_vocab()
    assert CHATML  # the default is one


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="a vocabulary of 259 is too small: bytes and special tokens take 260"):
        train_tokenizer(TEXTS, 259)
    with pytest.raises(DataError, match=r"these texts make a vocabulary of at most 26[0-9], not 500"):
        train_tokenizer(["abcabc"], 500)
