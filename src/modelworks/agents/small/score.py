"""The log-probability of a few continuations under a model, by the engine: each is forced, and its tokens are read."""

from __future__ import annotations

import json
from collections.abc import Sequence

from modelworks.agents.halt import Halt
from modelworks.agents.local import LocalModel
from modelworks.agents.model import Halted
from modelworks.engine.grammar import Grammar
from modelworks.engine.handle import Handle, join
from modelworks.engine.sample import Sampling


class Scorer:
    """Scores continuations of one prompt; what they have in common is computed once, by the engine's prefix cache."""

    def __init__(self, model: LocalModel, prompt_ids: Sequence[int], halt: Halt | None = None) -> None:
        self._model, self._prompt_ids, self._halt = model, list(prompt_ids), halt
        self.tokens = 0
        """Read in continuations so far."""

    def logprobs(self, prefix: str, options: Sequence[str]) -> list[float]:
        """The log-probability, in nats, of each option's text right after prompt and prefix.

        A prefix is spelled as the tokenizer spells it in the midst of text. Raises `Halted`.
        """
        before, _ = self._model.tokenizer.encode_with_offsets(prefix, at_start=False)
        ids = [*self._prompt_ids, *before]
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
