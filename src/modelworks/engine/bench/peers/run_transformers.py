"""transformers as it is measured; it computes a GGUF file de-quantised to float32.

`compare` runs this text in an interpreter that has the package, with `measure` beside it; modelworks never imports it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from measure import run


class Transformers:
    def __init__(self, task):
        torch.set_num_threads(task["threads"])
        path = Path(task["model"])
        folder, more = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
        self._model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, **more).eval()
        self.vocab_size = self._model.config.vocab_size
        self.clear()

    def about(self):
        return {
            "version": f"transformers {transformers.__version__}",
            "computed_by": f"torch {torch.__version__}, float32",
        }

    def clear(self):
        self._cache = transformers.DynamicCache()

    @torch.inference_mode()
    def _next(self, ids_BT, cache):
        """The likeliest next tokens, (B, 1)."""
        found = self._model(input_ids=ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1].argmax(-1, keepdim=True)

    def read(self, ids):
        return int(self._next(torch.tensor([list(ids)]), self._cache))

    def answer(self, prompts, count):
        cache = transformers.DynamicCache()
        ids_BT = torch.tensor([list(prompt) for prompt in prompts])
        said = []
        for _ in range(count):
            ids_BT = self._next(ids_BT, cache)
            said.append(ids_BT)
        return torch.cat(said, 1).tolist()


run(Transformers)
