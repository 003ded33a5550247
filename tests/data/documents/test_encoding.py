"""Bytes to characters: what the file says, what it looks like, and what is no text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import DocumentError
from modelworks.data.documents import read
from modelworks.data.documents.encoding import decode, is_text


@pytest.mark.parametrize(
    ("data", "text", "notes"),
    [
        ("Grüße, 東京".encode(), "Grüße, 東京", ()),
        (b"\xef\xbb\xbfwith a mark", "with a mark", ()),
        ("Grüße".encode("utf-16"), "Grüße", ("read as utf-16-le",)),
        ("Grüße aus Köln".encode("utf-16-be"), "Grüße aus Köln", ("read as utf-16-be",)),
        (b"\xff\xfe\x00\x00" + "Größe".encode("utf-32-le"), "Größe", ("read as utf-32-le",)),
        ("“Café” costs 5 €".encode("cp1252"), "“Café” costs 5 €", ("read as cp1252",)),
        (b"undefined \x81 there", "undefined   there", ("read as latin-1",)),
        (("Привет, мир! Это длинный русский текст. " * 5).encode("cp1251"), None, ("read as cp1251",)),
        (("これは日本語の文章です。" * 10).encode("shift_jis"), "これは日本語の文章です。" * 10, None),
    ],
)
def test_every_text_encoding_is_read(data: bytes, text: str | None, notes: tuple[str, ...] | None) -> None:
    document = read(data, ".txt")
    assert text is None or document.text == text
    assert notes is None or document.notes == notes


def test_a_declared_encoding_is_tried_but_not_trusted() -> None:
    assert decode("naïve".encode("cp1252"), "cp1252") == ("naïve", "cp1252")
    assert decode("naïve".encode(), "no-such-encoding") == ("naïve", "utf-8")
    with pytest.raises(DocumentError, match="binary"):
        decode(b"\0\1\2" * 100)


@given(st.text(min_size=1))
def test_utf8_comes_back_as_it_was_written(text: str) -> None:
    data = text.encode()
    if is_text(data) and not text.startswith("\ufeff"):
        assert decode(data) == (text, "utf-8")


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        text, encoding = decode(data)
    except DocumentError:
        assert not is_text(data)
    else:
        # All of it is there. The bytes may differ: cp1006 has two for one character, others a byte order mark.
        assert text.encode(encoding).decode(encoding) == text
