from __future__ import annotations

from tokenizers import pre_tokenizers

from modelworks.text.bytelevel import BYTE_TO_CHAR, CHAR_TO_BYTE, spelled_bytes


def test_alphabet_is_the_one_of_tokenizers() -> None:
    assert set(BYTE_TO_CHAR.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert len(CHAR_TO_BYTE) == 256


def test_every_byte_is_spelled_as_tokenizers_spells_it() -> None:
    step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(map(chr, range(1, 0x800))) + "日本😀"
    ((spelled, _),) = step.pre_tokenize_str(text)
    assert spelled_bytes(spelled) == text.encode()


def test_token_outside_the_alphabet_stands_for_itself() -> None:
    assert spelled_bytes("日本") == "日本".encode()
