"""One prompt on its way: its tokens, how its answer is chosen, and what of that can be shown.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from typing import Any, Literal, TypeAlias

from torch import Tensor

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.engine.constrain import Constraint, constrain
from modelworks.engine.sample import Sampler, Sampling
from modelworks.engine.stop import StopStrings
from modelworks.models.base import LanguageModel
from modelworks.text.chat import render
from modelworks.text.stream import Detokenizer

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]
Prompt: TypeAlias = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Text to continue, ids to continue, or messages to answer."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to the answer of prompt `index`."""

    index: int
    ids: tuple[int, ...]
    """The tokens sampled, or forced by a grammar; those that end the answer or spell a stop string included."""
    text: str
    """What can be shown: whole codepoints, no control tokens, no part of a stop string; often ""."""
    logprobs: tuple[float, ...]
    """For each of `ids`, its log-probability under the model: before temperature, penalties and filters."""
    top_logprobs: tuple[Mapping[int, float], ...]
    """For each of `ids`, the `Sampling.logprobs` likeliest tokens with theirs, likeliest first."""
    finish_reason: FinishReason | None = None
    """On the last piece: "stop" (the model, a stop string or the grammar ended the answer), "length" (`max_tokens`), or
    "cancelled" (by who asked, or by the end of the engine)."""


class Row:
    """One prompt and the state of its answer: what the model must read next, and what its logits become.

    Raises what `generate` says of prompts.
    """

    def __init__(
        self,
        model: LanguageModel,
        index: int,
        prompt: Prompt,
        sampling: Sampling,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        tokenizer = model.tokenizer
        self.index = index
        self.prompt_ids = _prompt_ids(model, prompt, tools)
        self.left = _room(model, len(self.prompt_ids), sampling.max_tokens)
        self.last_id = -1
        self.finished = False
        self._sampling = sampling
        self.sampler: Sampler = Sampler(sampling, self.prompt_ids, model.config.vocab_size)
        self._stops = StopStrings(sampling.stop)
        self._stop_ids = _stop_ids(model)
        if sampling.stop and tokenizer is None:
            raise ConfigError("stop strings need a tokenizer, and the model has none")
        # An answer to messages is a text of its own; anything else goes on from the prompt, spaces included. A grammar
        # is held to the bytes of the tokens, whichever.
        is_chat = not isinstance(prompt, str) and isinstance(prompt[0], Mapping)
        continuation = not is_chat or sampling.grammar is not None
        self._text = None if tokenizer is None else Detokenizer(tokenizer, continuation=continuation)
        self.forced: deque[int] = deque()
        """The tokens that come next whatever the logits: accepted by the constraint, not yet taken."""
        self._constraint: Constraint | None = None
        if sampling.grammar is not None:
            if tokenizer is None:
                raise ConfigError("a grammar needs a tokenizer, and the model has none")
            self._constraint = constrain(
                tokenizer, sampling.grammar, vocab_size=model.config.vocab_size, end_ids=self._stop_ids
            )
            self._force(self._constraint)

    @property
    def ready(self) -> int:
        """For how many tokens, the forced ones first, logits of one forward pass are of use."""
        complete = self._constraint is not None and self._constraint.finished
        return min(self.left, len(self.forced) + (not complete))

    def feed(self, count: int) -> list[int]:
        """What the model must read to give the logits of the next `count` tokens; at most `ready`."""
        newest = self.prompt_ids if self.last_id < 0 else [self.last_id]
        return [*newest, *islice(self.forced, count - 1)]

    def take(self, logits_V: Tensor) -> Piece:
        """Take the forced token or else choose one, and say what it adds."""
        token = self._next(logits_V)
        logits_V = logits_V.float()
        log_z = logits_V.logsumexp(-1)
        self.left -= 1
        text, reason = self._shown(token)
        self.last_id, self.finished = token, reason is not None
        if self._constraint is not None and not (self.finished or self.forced):
            self._force(self._constraint)
        return Piece(
            index=self.index,
            ids=(token,),
            text=text,
            logprobs=(float(logits_V[token] - log_z),),
            top_logprobs=(self._top(logits_V, log_z),) if self._sampling.logprobs else (),
            finish_reason=reason,
        )

    def _top(self, logits_V: Tensor, log_z: Tensor) -> dict[int, float]:
        top = logits_V.topk(min(self._sampling.logprobs, len(logits_V)))
        return dict(zip(top.indices.tolist(), (top.values - log_z).tolist()))

    def _next(self, logits_V: Tensor) -> int:
        if self.forced:
            token = self.forced.popleft()
            self.sampler.record(token)
            return token
        if self._constraint is None:
            return self.sampler.choose(logits_V)
        token = self.sampler.choose(logits_V, self._constraint.mask())
        self._constraint.accept(token)
        return token

    def _force(self, constraint: Constraint) -> None:
        """Go on while there is no choice; up to a token that `logit_bias` rules out, which the sampler then reports."""
        for token in islice(constraint.forced(), self.left):
            if self.sampler.forbids(token):
                break
            constraint.accept(token)
            self.forced.append(token)

    def _shown(self, token: int) -> tuple[str, FinishReason | None]:
        ended = token in self._stop_ids
        complete = self._constraint is not None and self._constraint.finished and not self.forced
        reason: FinishReason | None = "stop" if ended or complete else "length" if self.left == 0 else None
        if self._text is None:
            return "", reason
        new = "" if ended else self._text.push(token)
        if reason is not None:
            new += self._text.flush()
        text, stopped = self._stops.push(new)
        if stopped:
            return text, "stop"
        return text + (self._stops.flush() if reason is not None else ""), reason


def _stop_ids(model: LanguageModel) -> frozenset[int]:
    """The tokens that end an answer: those the tokenizer knows and those the model's configuration names."""
    stated = getattr(model.config, "eos_token_id", None)
    known = frozenset() if model.tokenizer is None else model.tokenizer.stop_ids
    return known | frozenset(() if stated is None else (stated,) if isinstance(stated, int) else stated)


def _room(model: LanguageModel, prompt_tokens: int, max_tokens: int | None) -> int:
    """How many tokens an answer may have."""
    context = model.context_length
    wanted = max_tokens if max_tokens is not None else max(1, context - prompt_tokens)
    if prompt_tokens + wanted > context:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens and the answer may have {wanted}, together "
            f"{prompt_tokens + wanted}; the model's context is {context}: shorten the prompt or lower max_tokens"
        )
    return wanted


def _prompt_ids(model: LanguageModel, prompt: Any, tools: Sequence[Mapping[str, Any]] | None) -> list[int]:
    is_ids = not isinstance(prompt, str) and all(isinstance(index, Integral) for index in prompt)
    if is_ids:
        ids = [int(index) for index in prompt]
    elif model.tokenizer is None:
        raise ConfigError("the model has no tokenizer; give the prompt as token ids")
    elif isinstance(prompt, str):
        ids = model.tokenizer.encode(prompt)
    else:
        ids = render(model.tokenizer, prompt, tools=tools, add_generation_prompt=True).ids
    if not ids:
        raise ConfigError("the prompt is empty; a model without a BOS token needs at least one token to go on from")
    size = model.config.vocab_size
    if outside := [index for index in ids if not 0 <= index < size]:
        raise ConfigError(f"the prompt has token {outside[0]}; the model's ids go from 0 to {size - 1}")
    return ids
