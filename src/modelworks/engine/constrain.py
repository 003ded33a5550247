"""Constrained decoding: which tokens keep an answer within a grammar, by llguidance (an Earley parser over a lexer of
regex derivatives, run along the trie of the vocabulary's bytes).

The grammar speaks of bytes and the model of tokens. The table between them is `Tokenizer.token_bytes`, what decoding
writes, so a text that the constraint let through is one that the grammar derives. Control tokens have no place in it;
those that end a turn become possible where the text may end.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor

from modelworks.core.errors import GrammarError, ModelFileError
from modelworks.engine.grammar import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

    from modelworks.text.tokenizer import Tokenizer

_GRAMMARS_KEPT: Final = 128
"""Compiled grammars by vocabulary; the least recently used goes first."""


class Constraint(Protocol):
    """Says, for one answer, what may come next."""

    def mask(self) -> Tensor:
        """The tokens allowed next, bool of shape V; at least one is, unless the constraint is finished.

        Where the grammar leaves no choice of text, there is none of its spelling either: the first of `forced` alone.
        """

    def forced(self) -> tuple[int, ...]:
        """Tokens that must come next, in the spelling that the tokenizer gives them; () where there is a choice."""

    def accept(self, token: int) -> None:
        """Go on by one token, a forced one too."""

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing can follow."""


def constrain(tokenizer: Tokenizer, grammar: Grammar, *, vocab_size: int, end_ids: Iterable[int]) -> Constraint:
    """The state of one answer under a grammar, for a model of `vocab_size` tokens that ends its turns with `end_ids`.

    Compiling takes about a millisecond, and none for a grammar that was compiled before. Thread-safe; a constraint
    itself belongs to one thread at a time. Its methods and this function raise `GrammarError`: here for a grammar that
    is invalid, unsupported or satisfied by nothing, later for one that grows too complex on the way.
    """
    vocabulary = _vocabulary(tokenizer, vocab_size, frozenset(end_ids))
    return _Matching(vocabulary.matcher(grammar), vocabulary, grammar, tokenizer)


class _Matching:
    """A `Constraint` over llguidance's parser."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary, grammar: Grammar, tokenizer: Tokenizer) -> None:
        self._matcher, self._vocabulary, self._grammar = matcher, vocabulary, grammar
        self._tokenizer = tokenizer  # the vocabulary, which asks it, does not keep it alive

    def mask(self) -> Tensor:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed_V = np.unpackbits(bits, count=self._vocabulary.size, bitorder="little").view(np.bool_)
        return torch.from_numpy(allowed_V)

    def forced(self) -> tuple[int, ...]:
        tokens = tuple(self._matcher.compute_ff_tokens())
        self._check()
        return tokens

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._grammar.refusal(_plain(self._matcher.get_error()))


class _Vocabulary:
    """A model's tokens as llguidance sees them, and the grammars compiled for them."""

    def __init__(self, tokenizer: Tokenizer, size: int, end_ids: frozenset[int]) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        self.size = size
        self._tokenizer = ref(tokenizer)  # a vocabulary must not keep alive what it is stored under
        try:
            self.tokens = [tokenizer.token_bytes(index) for index in range(size)]
        except ModelFileError as error:
            raise GrammarError(f"a grammar cannot constrain this model: {error}") from error
        ends = sorted(index for index in end_ids if index < size)
        if not ends:  # llguidance wants a token that ends; this one is outside of every mask
            self.tokens.append(b"")
            ends = [size]
        # What TokenizerWrapper reads.
        self.eos_token_id, self.bos_token_id = ends[0], None
        self.special_token_ids = sorted({*ends, *(index for index in tokenizer.control_ids if index < size)})
        self._trie = LLTokenizer(TokenizerWrapper(self), eos_token=ends)
        self._compiled = lru_cache(_GRAMMARS_KEPT)(self._compile)

    def matcher(self, grammar: Grammar) -> LLMatcher:
        """At the start of a text, for one answer."""
        return self._compiled(grammar).deep_copy()

    def _compile(self, grammar: Grammar) -> LLMatcher:
        """A matcher at the start of a text, never to be moved from there."""
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(self._trie, grammar.compiled(), log_level=0, limits=_limits())
        except ValueError as error:
            raise grammar.refusal(str(error)) from error
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds a grammar that nothing satisfies, and spares every answer the first mask
        if matcher.is_error():
            raise grammar.refusal(_plain(matcher.get_error()), _compile_error)
        return matcher

    def __call__(self, data: bytes) -> list[int]:
        """The tokens of text in the midst of other text; llguidance asks for the spelling of what a grammar forces."""
        tokenizer = self._tokenizer()
        assert tokenizer is not None  # the constraint that is asked holds it
        text = data.decode()
        # SentencePiece puts a space before a text, though not after a newline.
        for before in ("", "\n"):
            ids, _ = tokenizer.encode_with_offsets(before + text, at_start=False)
            if (spelled := self._suffix(ids, data)) is not None:
                return spelled
        # A tokenizer that rewrites text (Unicode normalisation), or a vocabulary without some of the bytes.
        return self._suffix(self._trie.greedy_tokenize(text), data) or []

    def _suffix(self, ids: list[int], data: bytes) -> list[int] | None:
        """The last tokens that spell exactly `data`, if they can."""
        left = len(data)
        for at in range(len(ids), -1, -1):
            if left == 0:
                spelled = ids[at:]
                exact = b"".join(self.tokens[index] for index in spelled) == data
                return spelled if exact else None
            if at == 0 or left < 0 or ids[at - 1] >= self.size:
                return None
            left -= len(self.tokens[ids[at - 1]])
        return None


_vocabularies: WeakKeyDictionary[Tokenizer, dict[tuple[int, frozenset[int]], _Vocabulary]] = WeakKeyDictionary()
_building = Lock()


def _vocabulary(tokenizer: Tokenizer, size: int, end_ids: frozenset[int]) -> _Vocabulary:
    """Built once for a tokenizer, which takes about 0.3 s for 50,000 tokens."""
    with _building:
        known = _vocabularies.setdefault(tokenizer, {})
        if (size, end_ids) not in known:
            known[size, end_ids] = _Vocabulary(tokenizer, size, end_ids)
        return known[size, end_ids]


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(verbose_errors=False)  # what it would add is the parser's state


def _compile_error(grammar: Grammar) -> str:
    from llguidance import LLMatcher

    try:
        return _plain(LLMatcher.validate_grammar(grammar.compiled(), limits=_limits()))
    except ValueError as error:
        return str(error)


def _plain(said: str) -> str:
    return said.removesuffix("<non-verbose/>").strip()
