"""Bytes to characters: byte order marks, UTF-8, and strict attempts at what older software wrote."""

from __future__ import annotations

import codecs

from modelworks.core.errors import DocumentError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its first half
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 16
_CONTROLS = bytes(b for b in range(32) if b not in b"\t\n\r\f\x1b\b")


def decode(data: bytes, declared: str = "") -> tuple[str, str]:
    """The text of `data` and the encoding it was read in, every attempt strict.

    Order: byte order mark, the `declared` encoding, UTF-8, UTF-16 without a mark, then for single- and multi-byte
    encodings that cannot be told apart with certainty a statistical guess (mostly non-ASCII text) or Windows-1252.

    Args:
        data: the file's bytes.
        declared: what the file says of itself (an HTML meta tag, a MIME charset); ignored where it does not hold.

    Raises:
        DocumentError: the bytes are no text in any encoding.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            text = _strict(data[len(mark) :], encoding)
            if text is not None:
                return text, encoding
    for encoding in (declared, "utf-8"):
        if encoding and is_text(data) and (text := _strict(data, encoding)) is not None:
            return text, _canonical(encoding)
    if encoding := _bare_utf16(data):
        text = _strict(data, encoding)
        if text is not None:
            return text, encoding
    if not is_text(data):
        raise DocumentError("binary file: its bytes are no text in any known encoding")
    if (guess := _guess(data[:_SAMPLE])) and (text := _strict(data, guess)) is not None:
        return text, _canonical(guess)
    text = _strict(data, "cp1252")  # a superset of Latin-1's letters, but for five unassigned bytes
    if text is not None:
        return text, "cp1252"
    return data.decode("latin-1"), "latin-1"


def is_text(data: bytes) -> bool:
    """Whether `data` could be text in an ASCII-based encoding: no NUL bytes and hardly a control character."""
    sample = data[:_SAMPLE]
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    return b"\0" not in sample and controls <= 1 + len(sample) // 50


def encoding_note(encoding: str) -> tuple[str, ...]:
    """The note for the ingestion report where the text was not UTF-8, else nothing."""
    return () if encoding == "utf-8" else (f"read as {encoding}",)


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):  # LookupError: a declared encoding that Python does not know
        return None


def _canonical(encoding: str) -> str:
    name = codecs.lookup(encoding).name
    return "utf-8" if name in ("utf-8", "ascii", "utf-8-sig") else name


def _bare_utf16(data: bytes) -> str:
    """UTF-16 without a mark betrays itself by NULs on one side of nearly all ASCII characters."""
    sample = data[: _SAMPLE & ~1]
    if len(sample) < 4 or len(data) % 2:
        return ""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if odd > 0.7 * half and even < 0.02 * half:
        return "utf-16-le"
    if even > 0.7 * half and odd < 0.02 * half:
        return "utf-16-be"
    return ""


def _guess(sample: bytes) -> str:
    """A guess for text that is mostly not ASCII (Cyrillic, Greek, CJK...).

    Where only some letters are accented, statistics confuse the Western code pages with each other, and
    Windows-1252 is by far the likeliest.
    """
    latin = sum(chr(byte).isalpha() for byte in sample if byte < 0x80)
    high = sum(byte >= 0x80 for byte in sample)
    letters = sum(byte >= 0xC0 for byte in sample)  # below lie the quotes and dashes of single-byte encodings
    if 3 * letters < latin and high < latin:
        return ""
    from charset_normalizer import from_bytes

    best = from_bytes(sample[:8192]).best()
    return best.encoding if best else ""
