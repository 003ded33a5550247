"""The alphabet in which byte-level BPE vocabularies are written (GPT-2; Radford et al. 2019, section 2.2).

Every byte is one printable character: bytes that print in Latin-1 stand for themselves, the other 68 follow from
U+0100 on. A token of such a vocabulary spells bytes, not characters, and may end in the middle of a codepoint.
"""

from __future__ import annotations

from typing import Final


def _alphabet() -> dict[int, str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


BYTE_TO_CHAR: Final = _alphabet()
CHAR_TO_BYTE: Final = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def spelled_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for.

    A token with a character outside the alphabet was never made of bytes (some files list such entries beside the
    real ones) and stands for its own UTF-8.
    """
    try:
        return bytes(CHAR_TO_BYTE[char] for char in token)
    except KeyError:
        return token.encode()
