"""Speculation: guess the next tokens cheaply, compute them all in one step, keep those that the model says too.

It is exact. Greedy answers are the same tokens; sampled ones have the distribution that sampling without it has, by
speculative sampling (Leviathan et al. 2023, arXiv:2211.17192, section 2.3; Chen et al. 2023, arXiv:2302.01318, theorem
1) against the *filtered* distribution: after temperature, top-k, top-p and min-p. A drafter that is certain of its
guesses is the case q = 1, in which that rule is to draw as ever and see whether the draw is the guess: with it even the
draws of a seed are the same.

Shapes: B batch, T tokens, L proposed tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.engine.cache import Cache
from modelworks.engine.sample import Sampler, Sampling, draw, filtered
from modelworks.models.base import LanguageModel, evaluating

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tokens that may come next."""

    ids: tuple[int, ...] = ()
    probs_LV: Tensor | None = None
    """The distributions that they were drawn from; None where they were not drawn."""

    def drawn(self, at: int) -> tuple[int, Tensor] | None:
        """The token at a place and its distribution q_V, where there is one."""
        return None if self.probs_LV is None or at >= len(self.ids) else (self.ids[at], self.probs_LV[at])


class Drafter(Protocol):
    """Guesses for one request. What it proposes changes how fast an answer comes, never the answer."""

    def propose(self, tokens: Sequence[int], limit: int) -> Proposal:
        """At most `limit` tokens that may follow `tokens`, the prompt and the answer so far, which only ever grow."""
        ...


Speculation: TypeAlias = Callable[[LanguageModel, Sampling], Drafter]
"""Makes the drafter of one request, given the model that answers it and its sampling."""


def prompt_lookup(*, length: int = 8, most: int = 3, least: int = 2) -> Speculation:
    """Propose up to `length` tokens that followed the last few where they stood before (see `PromptLookup`)."""
    if not 0 < least <= most or length < 1:
        raise ConfigError(f"prompt lookup with length={length}, most={most}, least={least}: none may be below 1")
    return lambda model, sampling: PromptLookup(length=length, most=most, least=least)


def draft_model(draft: LanguageModel, *, length: int = 4) -> Speculation:
    """Propose up to `length` tokens that a smaller model with the same vocabulary says (see `DraftModel`).

    For another vocabulary requests raise `ConfigError`. `draft_model(early_exit(model, layers))` needs no second model.
    """

    def drafter(model: LanguageModel, sampling: Sampling) -> Drafter:
        if draft.config.vocab_size != model.config.vocab_size:
            raise ConfigError(
                f"the draft model has {draft.config.vocab_size} tokens, the model {model.config.vocab_size}: "
                "speculation needs the same vocabulary"
            )
        return DraftModel(draft, sampling, length=length)

    return drafter


class PromptLookup:
    """Proposes what followed the last few tokens where they stood before, in the prompt or the answer.

    It costs nothing, and pays where an answer copies: code, quotations, summaries (Saxena 2023, "Prompt Lookup
    Decoding"). The longest match of `most` to `least` tokens wins, and of those the latest.
    """

    def __init__(self, *, length: int, most: int, least: int) -> None:
        self._length = length
        self._sizes = range(most, least - 1, -1)
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, tokens: Sequence[int], limit: int) -> Proposal:
        # What ends at the last token is left out, or it would find itself.
        for end in range(self._indexed + 1, len(tokens)):
            for size in self._sizes:
                if size <= end:
                    self._after[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
        for size in self._sizes:
            start = self._after.get(tuple(tokens[-size:])) if size <= len(tokens) else None
            if start is not None:
                return Proposal(tuple(tokens[start : start + min(limit, self._length)]))
        return Proposal()


class DraftModel:
    """Proposes what another model says, drawn by the request's own temperature and filters where it samples."""

    def __init__(self, model: LanguageModel, sampling: Sampling, *, length: int) -> None:
        self._model = model
        self._sampling = sampling
        self._length = length
        self._cache = Cache(model.config.num_hidden_layers)
        self._computed: list[int] = []
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            # Not the stream that the sampler accepts and rejects by: the two must be independent.
            self._generator.manual_seed(sampling.seed ^ 0x5DEECE66D)

    @torch.inference_mode()
    def propose(self, tokens: Sequence[int], limit: int) -> Proposal:
        limit = min(limit, self._length, self._model.context_length - len(tokens))
        if limit < 1:
            return Proposal()
        ids, probs = list(tokens), []
        agree = _common(self._computed, ids)
        self._cache.truncate(min(agree, len(ids) - 1))
        with evaluating(self._model):
            for _ in range(limit):
                new_1T = torch.tensor([ids[self._cache.length :]], device=next(self._model.parameters()).device)
                logits_V = self._model(new_1T, cache=self._cache, last_only=True)[0, -1].float().cpu()
                if self._sampling.greedy:
                    ids.append(int(logits_V.argmax()))
                else:
                    probs.append(filtered(logits_V, self._sampling).softmax(-1))
                    ids.append(draw(probs[-1], self._generator))
        self._computed = ids[:-1]
        return Proposal(tuple(ids[len(tokens) :]), torch.stack(probs) if probs else None)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens two sequences share."""
    return next((at for at, pair in enumerate(zip(left, right)) if pair[0] != pair[1]), min(len(left), len(right)))


def early_exit(model: LanguageModel, layers: int) -> LanguageModel:
    """The model cut off after its first layers, with the same final norm and head: shares all weights, copies none.

    (Self-speculation: Elhoushi et al. 2024, arXiv:2404.16710.) Raises `ConfigError` where there are no such layers.
    """
    depth = model.config.num_hidden_layers
    if not 0 < layers < depth:
        raise ConfigError(f"early exit after {layers} layers; the model has {depth}")
    cut = _shallow(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            owner: nn.Module = cut
            *path, leaf = name.split(".")
            for part in path:
                setattr(owner, part, _shallow(getattr(owner, part)))
                owner = getattr(owner, part)
            setattr(owner, leaf, module[:layers])
            break
    else:
        raise ConfigError(f"early exit does not know where a {type(model).__name__} has its layers")
    config = model.config
    changes = {"n_layer" if hasattr(config, "n_layer") else "num_hidden_layers": layers}
    if (kinds := getattr(config, "layer_types", None)) is not None:
        changes["layer_types"] = kinds[:layers]
    cut.config = replace(config, **changes)
    return cut


def _shallow(module: Module) -> Module:
    """A module with the same children and parameters, whose children can be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def verify(p_V: Tensor, q_V: Tensor, token: int, generator: torch.Generator) -> int:
    """A draw from p, given a `token` drawn from q: that token with probability min(1, p/q), or else another.

    The other is drawn from max(0, p - q), normalised; it is never `token`, so what returns says what was decided.
    Leviathan et al. 2023, algorithm 1.
    """
    p, q = float(p_V[token]), float(q_V[token])
    if float(torch.rand((), generator=generator, dtype=torch.float64)) * q < p:
        return token
    rest_V = (p_V.double() - q_V.double()).clamp_min(0)
    rest_V[token] = 0
    if not rest_V.any():  # p is q up to rounding, and so is what would be left of it
        return token
    return draw(rest_V, generator)


class SpeculativeSampler(Sampler):
    """A sampler whose next draw may start from a proposed token; everything else is as ever."""

    proposed: tuple[int, Tensor] | None = None
    """The token, and the distribution q_V that it was drawn from."""

    def _draw(self, logits_V: Tensor) -> int:
        if self.proposed is None:
            return super()._draw(logits_V)
        token, q_V = self.proposed
        return verify(logits_V.softmax(-1), q_V, token, self._generator)
