"""llama.cpp as it is measured, through the plain C interface of the package llama-cpp-python.

`compare` runs this text in an interpreter that has the package, with `measure` beside it; modelworks never imports it.
"""

from __future__ import annotations

import ctypes
import importlib.metadata

import llama_cpp as llama
import numpy as np
from measure import BATCH_PROMPT, run

BATCH = 512  # tokens of a call, llama.cpp's own default


class LlamaCpp:
    def __init__(self, task):
        if not task["model"].endswith(".gguf"):
            raise SystemExit("it reads .gguf files only")
        # Kept, or ctypes would call what is gone.
        self._silent = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(self._silent, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self._task = task
        self._model = llama.llama_model_load_from_file(task["model"].encode(), llama.llama_model_default_params())
        if not self._model:
            raise SystemExit("it cannot read the file")
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._one = self._context(1, task["context"] + task["tokens"] + 1)
        self._many = None

    def _context(self, sequences, room):
        settings = llama.llama_context_default_params()
        settings.n_ctx = sequences * (-(-room // 256) * 256)
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = self._task["threads"]
        context = llama.llama_init_from_model(self._model, settings)
        if not context:
            raise SystemExit(f"no room for {sequences} sequences of {room} tokens")
        return context

    def about(self):
        return {
            "version": "llama-cpp-python " + importlib.metadata.version("llama-cpp-python"),
            "build": llama.llama_print_system_info().decode().strip(),
        }

    def clear(self):
        llama.llama_memory_clear(llama.llama_get_memory(self._one), True)

    def _likeliest(self, context, at):
        return int(np.ctypeslib.as_array(llama.llama_get_logits_ith(context, at), (self.vocab_size,)).argmax())

    def read(self, ids):
        for start in range(0, len(ids), BATCH):
            piece = ids[start : start + BATCH]
            tokens = (llama.llama_token * len(piece))(*piece)
            if llama.llama_decode(self._one, llama.llama_batch_get_one(tokens, len(piece))):
                raise SystemExit("llama_decode failed")
        return self._likeliest(self._one, -1)

    def answer(self, prompts, count):
        if self._many is None:
            task = self._task
            together = max(task["concurrency"]) if "batch" in task["kinds"] else 1
            room = max(task["context"] + 1, min(task["context"], BATCH_PROMPT) + task["answer"])
            self._many = self._context(together, room)
        llama.llama_memory_clear(llama.llama_get_memory(self._many), True)
        waiting = [
            (token, at, row, at == len(prompt) - 1)
            for row, prompt in enumerate(prompts)
            for at, token in enumerate(prompt)
        ]
        newest = self._step(waiting)
        answers = [[newest[row]] for row in range(len(prompts))]
        for done in range(count - 1):
            newest = self._step(
                [(answer[-1], len(prompts[row]) + done, row, True) for row, answer in enumerate(answers)]
            )
            for row, answer in enumerate(answers):
                answer.append(newest[row])
        return answers

    def _step(self, waiting):
        """Compute (token, position, sequence, wanted) in calls of at most BATCH; the wanted rows' likeliest next."""
        found = {}
        for start in range(0, len(waiting), BATCH):
            piece = waiting[start : start + BATCH]
            batch = llama.llama_batch_init(len(piece), 0, 1)
            batch.n_tokens = len(piece)
            for at, (token, position, row, wanted) in enumerate(piece):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
                batch.seq_id[at][0], batch.logits[at] = row, wanted
            failed = llama.llama_decode(self._many, batch)
            llama.llama_batch_free(batch)
            if failed:
                raise SystemExit("llama_decode failed")
            found.update(
                {row: self._likeliest(self._many, at) for at, (_, _, row, wanted) in enumerate(piece) if wanted}
            )
        return found


run(LlamaCpp)
