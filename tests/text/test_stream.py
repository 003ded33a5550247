from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.text.stream import Detokenizer
from modelworks.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    name = {"byte_level": "byte_bpe_metadata", "sentencepiece": "sentencepiece_metadata"}[request.param]
    metadata: dict[str, Any] = request.getfixturevalue(name)
    return Tokenizer.from_gguf({"tokenizer.ggml.pre": "gpt-2"} | metadata)


def pieces(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    stream = Detokenizer(tokenizer, **options)
    return [*(stream.push(index) for index in ids), stream.flush()]


@given(text=st.text())
def test_pieces_of_a_text_join_to_it(tokenizer: Tokenizer, text: str) -> None:
    found = pieces(tokenizer, tokenizer.encode(text))
    expected = text if tokenizer.adds_prefix_space is False else text.replace("▁", " ")
    assert "".join(found) == expected
    assert all("\ufffd" not in piece for piece in found) or "\ufffd" in text


@given(data=st.data(), skip_special=st.booleans(), continuation=st.booleans())
def test_pieces_of_any_ids_join_to_their_decoding(
    tokenizer: Tokenizer, data: st.DataObject, skip_special: bool, continuation: bool
) -> None:
    """Ids at random spell broken UTF-8, which a text of its own never does."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    options = {"skip_special": skip_special, "continuation": continuation}
    found = pieces(tokenizer, ids, **options)
    assert "".join(found) == tokenizer.decode(ids, **options)
    for piece in found:
        piece.encode()  # no half of a surrogate pair, no half codepoint


def test_a_codepoint_waits_for_its_last_byte(smollm: Tokenizer) -> None:
    ids = smollm.encode("🫠")
    assert len(ids) > 2
    assert pieces(smollm, ids) == [""] * (len(ids) - 1) + ["🫠", ""]
    assert pieces(smollm, ids[:-1]) == [""] * (len(ids) - 1) + ["\ufffd"]


def test_bytes_that_become_no_codepoint_are_shown_once_that_is_certain(smollm: Tokenizer) -> None:
    first, a = smollm.encode("🫠")[0], smollm.encode("a")[0]
    assert pieces(smollm, [first, a]) == ["", "\ufffda", ""]


def test_control_tokens_are_silent(smollm: Tokenizer) -> None:
    ids = smollm.encode("a<|im_end|>b", parse_special=True)
    assert pieces(smollm, ids) == ["a", "", "b", ""]
    assert pieces(smollm, ids, skip_special=False) == ["a", "<|im_end|>", "b", ""]


def test_prefix_space_goes_once_and_only_at_the_start(sentencepiece_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata)
    ids = tokenizer.encode("the world", add_special=False)
    assert "".join(pieces(tokenizer, ids)) == "the world"
    assert "".join(pieces(tokenizer, ids, continuation=True)) == " the world"
