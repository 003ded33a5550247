"""Text from ids as they come: each piece is final, and the pieces together are what `Tokenizer.decode` gives."""

from __future__ import annotations

import codecs

from modelworks.text.tokenizer import Tokenizer


class Detokenizer:
    """Feeds on one id at a time. Bytes wait until they make a whole codepoint, so no piece ever ends inside one.

    `continuation` and `skip_special` are those of `Tokenizer.decode`. Constant time and memory a token.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._hidden = tokenizer.control_ids if skip_special else frozenset()
        self._strip = tokenizer.adds_prefix_space and not continuation
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, index: int) -> str:
        """The text that became certain with this id; often "" where a codepoint spans tokens."""
        return "" if index in self._hidden else self._first(self._utf8.decode(self._tokenizer.token_bytes(index)))

    def flush(self) -> str:
        """The end of the text: bytes that still wait will never be a codepoint and become U+FFFD."""
        return self._first(self._utf8.decode(b"", final=True))

    def _first(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text
