"""Generation as a stream: prompts in, pieces of answers out as they come.

The tokens of an answer do not depend on how they are computed: with the cache they are those of recomputing everything
for each token, and a prompt in a batch (padded on the left) gets those that it gets alone, up to the rounding of sums.

Shapes: B rows of the batch, T new tokens, S tokens held, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.engine.cache import Cache
from modelworks.engine.sample import Sampler, Sampling
from modelworks.engine.stop import StopStrings
from modelworks.models.base import LanguageModel
from modelworks.text.chat import render
from modelworks.text.stream import Detokenizer

FinishReason: TypeAlias = Literal["stop", "length"]
Prompt: TypeAlias = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Text to continue, ids to continue, or messages to answer."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to the answer of prompt `index`."""

    index: int
    ids: tuple[int, ...]
    """The tokens sampled, the one that ends the answer and those that spell a stop string included."""
    text: str
    """What can be shown: whole codepoints, no control tokens, no part of a stop string; often ""."""
    logprobs: tuple[float, ...]
    """For each of `ids`, its log-probability under the model: before temperature, penalties and filters."""
    top_logprobs: tuple[Mapping[int, float], ...]
    """For each of `ids`, the `Sampling.logprobs` likeliest tokens with theirs, likeliest first."""
    finish_reason: FinishReason | None = None
    """On the last piece: "stop" (the model or a stop string ended the answer) or "length" (`max_tokens`)."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer; the fields are those of its pieces, joined."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[Mapping[int, float], ...]
    finish_reason: FinishReason


def generate(
    model: LanguageModel,
    prompts: Prompt | Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 - frozen
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int = 16,
) -> Generator[Piece, None, None]:
    """Answer prompts, `batch_size` at a time; closing the generator ends the work at once.

    A prompt in text gets BOS if the model expects it, and its control tokens are text (`Tokenizer.encode` with
    `parse_special=True` makes ids of them). Messages go through the model's chat template, `tools` with them.
    `sampling` is one for all prompts or one for each.

    Raises, before any work: `ContextLengthError` where prompt and answer do not fit the model, `ConfigError` for an
    empty prompt, ids outside the vocabulary or text for a model without a tokenizer, `ChatError` for messages.
    """
    listed = _listed(prompts)
    chosen = [sampling] * len(listed) if isinstance(sampling, Sampling) else list(sampling)
    if len(chosen) != len(listed):
        raise ConfigError(f"there are {len(chosen)} samplings for {len(listed)} prompts")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, expected at least 1")
    rows = [_Row(model, index, *pair, tools) for index, pair in enumerate(zip(listed, chosen))]
    return _stream(model, rows, batch_size)


def complete(
    model: LanguageModel,
    prompts: Prompt | Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 - frozen
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int = 16,
) -> list[Completion]:
    """`generate` to its end: the answers in the order of the prompts, one in a list for a single prompt."""
    pieces: dict[int, list[Piece]] = {}
    for piece in generate(model, prompts, sampling, tools=tools, batch_size=batch_size):
        pieces.setdefault(piece.index, []).append(piece)
    return [_joined(pieces[index]) for index in sorted(pieces)]


def _joined(pieces: list[Piece]) -> Completion:
    reason = pieces[-1].finish_reason
    assert reason is not None
    return Completion(
        text="".join(piece.text for piece in pieces),
        ids=tuple(index for piece in pieces for index in piece.ids),
        logprobs=tuple(value for piece in pieces for value in piece.logprobs),
        top_logprobs=tuple(top for piece in pieces for top in piece.top_logprobs),
        finish_reason=reason,
    )


# --- prompts ----------------------------------------------------------------------------------------------------------


def _listed(prompts: Any) -> list[Any]:
    """One prompt or several as a list: a list of ids or of messages is one prompt."""
    if isinstance(prompts, str):
        return [prompts]
    listed = list(prompts)
    return [listed] if listed and isinstance(listed[0], Integral | Mapping) else listed


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


class _Row:
    """One prompt and the state of its answer."""

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
        self._sampler = Sampler(sampling, self.prompt_ids, model.config.vocab_size)
        self._stops = StopStrings(sampling.stop)
        self._stop_ids = _stop_ids(model)
        if sampling.stop and tokenizer is None:
            raise ConfigError("stop strings need a tokenizer, and the model has none")
        # An answer to messages is a text of its own; anything else goes on from the prompt, spaces included.
        is_chat = not isinstance(prompt, str) and isinstance(prompt[0], Mapping)
        self._text = None if tokenizer is None else Detokenizer(tokenizer, continuation=not is_chat)

    def take(self, logits_V: Tensor) -> Piece:
        """Choose the next token and say what it adds."""
        token = self._sampler.choose(logits_V)
        logprobs_V = logits_V.float().log_softmax(-1)
        top = logprobs_V.topk(min(self._sampling.logprobs, len(logprobs_V)))
        self.left -= 1
        text, reason = self._shown(token)
        self.last_id, self.finished = token, reason is not None
        return Piece(
            index=self.index,
            ids=(token,),
            text=text,
            logprobs=(float(logprobs_V[token]),),
            top_logprobs=(dict(zip(top.indices.tolist(), top.values.tolist())),) if self._sampling.logprobs else (),
            finish_reason=reason,
        )

    def _shown(self, token: int) -> tuple[str, FinishReason | None]:
        ended = token in self._stop_ids
        reason: FinishReason | None = "stop" if ended else "length" if self.left == 0 else None
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


# --- decoding ---------------------------------------------------------------------------------------------------------


def _stream(model: LanguageModel, rows: list[_Row], batch_size: int) -> Generator[Piece, None, None]:
    for start in range(0, len(rows), batch_size):
        batch = _Batch(model, rows[start : start + batch_size])
        while batch.rows:
            yield from batch.step()


class _Batch:
    """Rows that are decoded together, a token each a step."""

    def __init__(self, model: LanguageModel, rows: list[_Row]) -> None:
        self.rows = rows
        self._model = model
        longest = max(len(row.prompt_ids) for row in rows)
        most = longest + max(row.left for row in rows)
        self._cache = Cache(model.config.num_hidden_layers, capacity=min(most, longest + 256))
        device = next(model.parameters()).device
        pad = 0 if model.tokenizer is None or model.tokenizer.pad_id is None else model.tokenizer.pad_id
        self._ids_BT = torch.full((len(rows), longest), pad, device=device)
        self._mask_BS = torch.ones((len(rows), most), dtype=torch.bool, device=device)
        for at, row in enumerate(rows):
            padding = longest - len(row.prompt_ids)
            self._ids_BT[at, padding:] = torch.tensor(row.prompt_ids, device=device)
            self._mask_BS[at, :padding] = False

    # Within a step, and never across a yield: the mode is the thread's, and the consumer may be training.
    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One forward pass and a token for each row; rows that finish leave the batch."""
        held = self._cache.length + self._ids_BT.shape[1]
        mask_BS = self._mask_BS[:, :held]
        with _evaluating(self._model):
            logits_BV = self._model(
                self._ids_BT,
                attention_mask_BS=None if mask_BS.all() else mask_BS,
                cache=self._cache,
                last_only=True,
            )[:, -1]
        pieces = [row.take(logits_V) for row, logits_V in zip(self.rows, logits_BV)]
        going = [at for at, row in enumerate(self.rows) if not row.finished]
        if len(going) < len(self.rows):
            self.rows = [self.rows[at] for at in going]
            if going:
                self._cache.keep_rows(going)
                self._mask_BS = self._mask_BS[going]
        self._ids_BT = torch.tensor([[row.last_id] for row in self.rows], device=self._ids_BT.device)
        return pieces


@contextmanager
def _evaluating(model: LanguageModel) -> Iterator[None]:
    """Dropout off, and afterwards as it was: a rollout in the midst of training must sample the model itself."""
    if not model.training:
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
