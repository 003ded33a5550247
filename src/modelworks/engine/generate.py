"""Generation as a stream: prompts in, pieces of answers out as they come.

The tokens of an answer do not depend on how they are computed: with the cache they are those of recomputing everything
for each token, and a prompt in a batch (padded on the left) gets those that it gets alone, up to the rounding of sums.

Shapes: B rows of the batch, T new tokens, S tokens held, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from modelworks.adapt.adapter import Adapter, Applied
from modelworks.adapt.read import read
from modelworks.core.errors import ConfigError
from modelworks.engine.cache import Cache
from modelworks.engine.row import FinishReason, Piece, Prompt, Row
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel, evaluating


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
    adapter: Adapter | str | Path | None = None,
) -> Generator[Piece, None, None]:
    """Answer prompts, `batch_size` at a time; closing the generator ends the work at once.

    A prompt in text gets BOS if the model expects it, and its control tokens are text (`Tokenizer.encode` with
    `parse_special=True` makes ids of them). Messages go through the model's chat template, `tools` with them.
    `sampling` is one for all prompts or one for each. With an `adapter` (see `adapt.read.read`) the model answers as
    that has changed it; the model itself stays as it is.

    Raises, before any work: `ContextLengthError` where prompt and answer do not fit the model, `ConfigError` for an
    empty prompt, ids outside the vocabulary or text for a model without a tokenizer, `GrammarError` for a grammar that
    cannot be held to, `ChatError` for messages, `ModelFileError` for an adapter.
    """
    listed = _listed(prompts)
    chosen = [sampling] * len(listed) if isinstance(sampling, Sampling) else list(sampling)
    if len(chosen) != len(listed):
        raise ConfigError(f"there are {len(chosen)} samplings for {len(listed)} prompts")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, expected at least 1")
    rows = [Row(model, index, *pair, tools) for index, pair in enumerate(zip(listed, chosen))]
    if isinstance(adapter, str | Path):
        adapter = read(adapter, model)
    applied = None if adapter is None else Applied(model, adapter.matrices())
    return _stream(model, rows, batch_size, applied)


def complete(
    model: LanguageModel,
    prompts: Prompt | Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 - frozen
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int = 16,
    adapter: Adapter | str | Path | None = None,
) -> list[Completion]:
    """`generate` to its end: the answers in the order of the prompts, one in a list for a single prompt."""
    pieces: dict[int, list[Piece]] = {}
    for piece in generate(model, prompts, sampling, tools=tools, batch_size=batch_size, adapter=adapter):
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


def _listed(prompts: Any) -> list[Any]:
    """One prompt or several as a list: a list of ids or of messages is one prompt."""
    if isinstance(prompts, str):
        return [prompts]
    listed = list(prompts)
    return [listed] if listed and isinstance(listed[0], Integral | Mapping) else listed


def _stream(
    model: LanguageModel, rows: list[Row], batch_size: int, applied: Applied | None
) -> Generator[Piece, None, None]:
    for start in range(0, len(rows), batch_size):
        batch = _Batch(model, rows[start : start + batch_size], applied)
        while batch.rows:
            yield from batch.step()


class _Batch:
    """Rows that are decoded together, equally many tokens a step: one, or more where grammars force them in all."""

    def __init__(self, model: LanguageModel, rows: list[Row], applied: Applied | None) -> None:
        self.rows = rows
        self._applied = applied or nullcontext()
        self._model = model
        longest = max(len(row.prompt_ids) for row in rows)
        most = longest + max(row.left for row in rows)
        self._cache = Cache(model.config.num_hidden_layers, capacity=min(most, longest + 256))
        self._device = next(model.parameters()).device
        self._pad = 0 if model.tokenizer is None or model.tokenizer.pad_id is None else model.tokenizer.pad_id
        self._mask_BS = torch.ones((len(rows), most), dtype=torch.bool, device=self._device)
        for at, row in enumerate(rows):
            self._mask_BS[at, : longest - len(row.prompt_ids)] = False

    # Within a step, and never across a yield: the mode is the thread's, and the consumer may be training.
    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One forward pass and `count` tokens for each row; rows that finish leave the batch."""
        # After a prompt a single one: the logits of every token of a long prompt would be large.
        count = min(row.ready for row in self.rows) if self._cache.length else 1
        fed = [row.feed(count) for row in self.rows]
        width = max(map(len, fed))
        ids_BT = torch.tensor([[self._pad] * (width - len(ids)) + ids for ids in fed], device=self._device)
        mask_BS = self._mask_BS[:, : self._cache.length + width]
        with evaluating(self._model), self._applied:
            logits_BTV = self._model(
                ids_BT,
                attention_mask_BS=None if mask_BS.all() else mask_BS,
                cache=self._cache,
                last_only=count == 1,
            )[:, -count:]
        pieces = []
        for row, logits_TV in zip(self.rows, logits_BTV):
            for logits_V in logits_TV:
                if not row.finished:  # a stop string can end an answer within
                    pieces.append(row.take(logits_V))
        going = [at for at, row in enumerate(self.rows) if not row.finished]
        if len(going) < len(self.rows):
            self.rows = [self.rows[at] for at in going]
            if going:
                self._cache.keep_rows(going)
                self._mask_BS = self._mask_BS[going]
        return pieces
