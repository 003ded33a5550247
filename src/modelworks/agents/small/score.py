"""What a model makes of a request: the log-probability of a few continuations, by the engine.

Each continuation is forced by a grammar, and its tokens are read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from modelworks.agents.halt import Halt
from modelworks.agents.local import LocalModel
from modelworks.agents.model import Halted, Reply
from modelworks.engine.grammar import Grammar
from modelworks.engine.handle import Handle, join
from modelworks.engine.sample import Sampling


class Scorer:
    """Scores continuations of one prompt; what they have in common is computed once, by the engine's prefix cache."""

    def __init__(self, model: LocalModel, prompt_ids: Sequence[int], halt: Halt | None = None) -> None:
        self._model, self._halt = model, halt
        self.prompt_ids = list(prompt_ids)
        self.tokens = 0
        """Read in continuations so far."""

    def logprobs(self, prefix: str, options: Sequence[str]) -> list[float]:
        """The log-probability, in nats, of each option's text right after prompt and prefix.

        A prefix is spelled as the tokenizer spells it in the midst of text. Raises `Halted`.
        """
        before, _ = self._model.tokenizer.encode_with_offsets(prefix, at_start=False)
        ids = [*self.prompt_ids, *before]
        scores: list[float] = []
        waiting: list[Handle] = []
        for at, option in enumerate(options):
            if self._halt is not None and self._halt.is_set():
                raise Halted("halted while options were compared")
            waiting.append(self._submit(ids, option))
            if at == 0:  # the others find what it left in the cache
                scores.append(self._total(waiting.pop()))
        return scores + [self._total(handle) for handle in waiting]

    def _submit(self, ids: Sequence[int], option: str) -> Handle:
        grammar = Grammar.lark(f"start: {json.dumps(option, ensure_ascii=False)}")
        return self._model.engine.submit(
            ids, Sampling(grammar=grammar, max_tokens=2 * len(option.encode()) + 1), adapter=self._model.adapter
        )

    def _total(self, handle: Handle) -> float:
        piece = join(list(handle))
        self.tokens += len(piece.ids)
        return sum(piece.logprobs)


class Opinion:
    """Of one request: which name is the next call's, and which value an argument's; before both stands a `draft`."""

    def __init__(self, model: LocalModel, scorer: Scorer, draft: Reply | None = None) -> None:
        self._model, self._scorer, self._draft = model, scorer, draft
        self.written = f"{draft.text}\n" if draft is not None else ""

    @property
    def prompt_tokens(self) -> int:
        return len(self._scorer.prompt_ids) + (self._draft.prompt_tokens if self._draft is not None else 0)

    @property
    def completion_tokens(self) -> int:
        """Read in continuations so far, and those of the draft."""
        return self._scorer.tokens + (self._draft.completion_tokens if self._draft is not None else 0)

    def names(self, names: Sequence[str]) -> dict[str, float]:
        """The log-probability of each name as the next call's, in nats; all are alternatives of one place.

        Raises `Halted`.
        """
        head, _ = self._model.call_form(names[0])
        before = self.written + head[: head.index(json.dumps(names[0]))]
        return dict(zip(names, self._scorer.logprobs(before, [f"{json.dumps(name)}," for name in names])))

    def values(self, before: str, options: Sequence[str]) -> list[float]:
        """The log-probabilities of an argument's options, after the part of the call that stands before them."""
        return self._scorer.logprobs(before, options)
