"""The reader: which span of which passage answers a question, and how sure it is that one does.

It is MiniLM with its last layers retrained on questions with and without an answer (`recipes/reader/train.py`).
The package ships those layers, eight bits a weight; the rest comes from the default embedder.

Shapes: B passages, T tokens.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from modelworks.core.errors import ModelFileError
from modelworks.core.gguf import GGUFFile
from modelworks.models.bert import BertReader
from modelworks.models.fetch import pull
from modelworks.models.load import load
from modelworks.retrieval.evidence import Calibration, Reading, Span
from modelworks.text.tokenizer import Tokenizer

MAX_TOKENS = 384
"""Question and passage together. Chunks hold at most 256 tokens, so only a very long question is ever cut."""
MAX_ANSWER_TOKENS = 30
_HEADING_TOKENS = 48
_BATCH_TOKENS = 4096


class Reader:
    """Reads passages against a question."""

    def __init__(self, model: BertReader, tokenizer: Tokenizer, calibration: Calibration) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.calibration = calibration
        self._cls, self._sep = tokenizer.control_id("[CLS]"), tokenizer.control_id("[SEP]")

    @classmethod
    def from_file(cls, path: Path, *above: Path) -> Reader:
        """Build the reader from a file of retrained layers, and further ones whose layers replace those before.

        Raises ModelFileError where one does not fit its base.
        """
        base = load(pull("starter-embedder"))
        model = BertReader(base)
        files = {each: GGUFFile(each) for each in (path, *above)}
        for each, file in files.items():
            weights = {name: torch.from_numpy(file.dequantize(name)) for name in file.tensors}
            unknown = weights.keys() - model.state_dict().keys()
            if unknown or "span.weight" not in weights:
                raise ModelFileError(
                    f"{each}: not a reader for the default embedder ({', '.join(sorted(unknown)[:3])})"
                )
            model.load_state_dict(weights, strict=False)  # what a file leaves out stays as it was
        calibration = json.loads(files[path].metadata["modelworks.calibration"])
        return cls(model, base.tokenizer, Calibration(**calibration))

    @torch.inference_mode()
    def read(
        self, question: str, passages: Sequence[str], sentences: Sequence[Sequence[Span]], headings: Sequence[str] = ()
    ) -> list[list[Reading]]:
        """For each passage, the best span within each of its sentences, in their order.

        `headings`, one a passage, are read before the passages but hold no answer.
        """
        asked = self.tokenizer.encode(question, add_special=False)[: MAX_TOKENS // 2]
        room = MAX_TOKENS - len(asked) - 3
        bodies = [self.tokenizer.encode_with_offsets(passage) for passage in passages]
        above = [self.tokenizer.encode(heading, add_special=False)[:_HEADING_TOKENS] for heading in headings]
        above = above or [[] for _ in passages]
        lengths = [min(room, len(head) + len(body)) for head, (body, _) in zip(above, bodies, strict=True)]
        longest_first = sorted(range(len(passages)), key=lambda i: -lengths[i])
        second = len(asked) + 2  # where the second segment begins
        readings: dict[int, list[Reading]] = {}
        while longest_first:
            width = second + lengths[longest_first[0]] + 1
            rows = max(1, _BATCH_TOKENS // width)
            batch, longest_first = longest_first[:rows], longest_first[rows:]
            ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
            segments_BT, mask_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT)
            for row, i in enumerate(batch):
                length = second + lengths[i] + 1
                context = [*above[i], *bodies[i][0]][: lengths[i]]
                ids_BT[row, :length] = torch.tensor([self._cls, *asked, self._sep, *context, self._sep])
                segments_BT[row, second:length] = 1
                mask_BT[row, :length] = 1
            start_BT, end_BT = self.model(ids_BT, mask_BT, segments_BT)
            for row, i in enumerate(batch):
                first, last = second + len(above[i]), second + lengths[i]
                none = float(start_BT[row, 0] + end_BT[row, 0])
                offsets = bodies[i][1][: last - first]
                scores = (start_BT[row, first:last], end_BT[row, first:last])
                readings[i] = [_within(sentence, *scores, offsets, none) for sentence in sentences[i]]
        return [readings[i] for i in range(len(passages))]


def _within(sentence: Span, start_T: Tensor, end_T: Tensor, offsets: Sequence[Span], none: float) -> Reading:
    """The best span of the tokens that lie in a sentence."""
    inside = [at for at, (start, end) in enumerate(offsets) if start < sentence[1] and end > sentence[0]]
    if not inside:
        return Reading(sentence[0], sentence[0], -math.inf)
    first, last = inside[0], inside[-1] + 1
    score, start, end = best_span(start_T[first:last], end_T[first:last])
    return Reading(max(offsets[first + start][0], sentence[0]), min(offsets[first + end][1], sentence[1]), score - none)


def best_span(start_T: Tensor, end_T: Tensor) -> tuple[float, int, int]:
    """The highest sum of a start logit and of an end logit at most MAX_ANSWER_TOKENS - 1 later, and both places."""
    T = len(start_T)
    allowed_TT = torch.ones(T, T, dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1)
    pair_TT = (start_T[:, None] + end_T[None, :]).masked_fill(~allowed_TT, -math.inf)
    at = int(pair_TT.argmax())
    return float(pair_TT.flatten()[at]), at // T, at % T


@functools.cache
def default_reader() -> Reader:
    """The reader that ships with modelworks, loaded once."""
    return _shipped("reader")


@functools.cache
def parameter_reader() -> Reader:
    """That reader after it has learned what requests say of the parameters of tools, loaded once."""
    return _shipped("reader", "parameters")


def _shipped(*names: str) -> Reader:
    folder = resources.files("modelworks.retrieval") / "assets"
    with ExitStack() as stack:
        return Reader.from_file(*[stack.enter_context(resources.as_file(folder / f"{name}.gguf")) for name in names])
