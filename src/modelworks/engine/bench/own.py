"""modelworks as it is measured: `python -m modelworks.engine.bench.own TASK`.

One sequence is read and decoded by the runner alone, several are answered by the engine, as a program would ask it.
A GGUF file takes no torch until the engine begins.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.engine.bench.measure import BATCH_PROMPT, USER_ERROR, run
from modelworks.kernels.native import isa
from modelworks.kernels.program import Program
from modelworks.models.plan import native_plan

if TYPE_CHECKING:
    from modelworks.engine.engine import Engine
    from modelworks.engine.runner import Runner
    from modelworks.models.base import LanguageModel

_TORCH_KV_BYTES = 2 << 30  # pages of it that no token needs are never touched


class Own:
    """A model on our runner; the engine, on the same runner, once it is asked for an answer.

    Raises ConfigError where the task's tokens do not fit the model's context.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._path, self._threads = Path(task["model"]), task["threads"]
        self._model: LanguageModel | None = None
        self._engine: Engine | None = None
        self._runner: Runner
        kinds = task["kinds"]
        alone = task["context"] + (task["tokens"] if "decode" in kinds else 1)
        together = max(task["concurrency"]) if "batch" in kinds else 1
        each = min(task["context"], BATCH_PROMPT) + task["answer"] if "batch" in kinds else 0
        plan = native_plan(self._path) if task["weights"] is None else None
        if plan is not None:
            size = Program.block_size
            blocks = max(-(-alone // size), together * -(-each // size)) + together
            self._runner = Program(plan, num_blocks=blocks, num_threads=self._threads)
            context, self._computed = plan.context_length, "native program, the file's own weights"
        else:
            self._runner, self._model = self._open(task)
            context = self._model.context_length
        if max(alone, each) > context:
            raise ConfigError(
                f"the model was made for {context} tokens, and the measures need {max(alone, each)} of one "
                f"sequence (a context of {task['context']} and what is generated): lower --context"
            )
        self._most = max(together, 1)
        self.vocab_size = self._runner.vocab_size
        self._blocks = -(-alone // self._runner.block_size)
        self.clear()

    def _open(self, task: Mapping[str, Any]) -> tuple[Runner, LanguageModel]:
        import torch

        from modelworks.engine.runner import open_model

        torch.set_num_threads(self._threads)
        model, runner = open_model(self._path, kv_bytes=_TORCH_KV_BYTES, weights=task["weights"])
        if isinstance(runner, Program):
            self._computed = f"native program, weights packed to {task['weights']}"
        else:
            dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
            self._computed = f"torch {torch.__version__}, {dtype}"
        return runner, model

    def about(self) -> dict[str, str]:
        from modelworks.core.lineage import installed_versions  # a megabyte or two that are not the model's

        found = {"version": installed_versions()["modelworks"], "computed_by": self._computed}
        return found | {"isa": isa()} if isinstance(self._runner, Program) else found

    def clear(self) -> None:
        self._held = 0

    def read(self, ids: Sequence[int]) -> int:
        count = len(ids)
        table_1M = np.arange(self._blocks, dtype=np.int32)[None]
        ids_N, starts_2, held_1, wanted_1 = (
            np.array(each, np.int32) for each in (ids, [0, count], [self._held], [count - 1])
        )
        logits_1V = self._runner.step(ids_N, starts_2, held_1, table_1M, wanted_1)
        self._held += count
        return int(logits_1V[0].argmax())

    def answer(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        from modelworks.engine.sample import Sampling

        if self._engine is None:
            self._engine = self._start()
        handles = [self._engine.submit(prompt, Sampling(max_tokens=count)) for prompt in prompts]
        answers = [[token for piece in handle for token in piece.ids] for handle in handles]
        for answer in answers:
            if len(answer) != count:
                raise RuntimeError(f"an answer has {len(answer)} tokens, {count} were asked for")
        return answers

    def _start(self) -> Engine:
        from modelworks.engine.engine import Engine
        from modelworks.models.base import LanguageModel
        from modelworks.models.load import load

        model = self._model or load(self._path, kind=LanguageModel, device="meta")
        # No answer may end sooner than another side's, and none makes text.
        model.tokenizer = None
        if getattr(model.config, "eos_token_id", None) is not None:
            model.config = replace(model.config, eos_token_id=None)
        return Engine(
            model,
            runner=self._runner,
            max_running=self._most,
            max_step_tokens=max(512, self._most),
            prefix_cache=False,
        )


def main() -> int:
    try:
        run(Own)
    except ModelworksError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
