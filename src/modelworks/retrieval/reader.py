"""The reader: which span of which passage answers a question, and how sure it is that one does.

It is MiniLM with its last layers retrained on questions with and without an answer (`recipes/train_reader.py`).
The package ships those layers, eight bits a weight; the rest comes from the default embedder.

Shapes: B passages, T tokens.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from modelworks.core.errors import ModelFileError
from modelworks.core.gguf import GGUFFile
from modelworks.models.bert import BertReader
from modelworks.models.fetch import pull
from modelworks.models.load import load
from modelworks.text.tokenizer import Tokenizer

MAX_TOKENS = 384
"""Question and passage together. Chunks hold at most 256 tokens, so only a very long question is ever cut."""
MAX_ANSWER_TOKENS = 30
_HEADING_TOKENS = 48
_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Reading:
    """The best answer span of one passage, `passage[start:end]`."""

    start: int
    end: int
    margin: float
    """Score of the span less the score of "no answer", in logits; above 0 the reader leans to an answer."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Turns the evidence for a passage into the probability that it answers the question (logistic regression).

    Fitted by `recipes/calibrate_reader.py` on two SQuAD2 articles that nothing else is trained or reported on.
    """

    margin: float
    coverage: float
    bias: float
    threshold: float
    """Below this probability of its best passage a question is refused."""

    def probability(self, margin: float, coverage: float) -> float:
        """`coverage` is the share of the question's content words that the passage holds, 0 to 1."""
        return 1 / (1 + math.exp(-(self.margin * margin + self.coverage * coverage + self.bias)))


class Reader:
    """Reads passages against a question."""

    def __init__(self, model: BertReader, tokenizer: Tokenizer, calibration: Calibration) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.calibration = calibration
        self._cls, self._sep = tokenizer.control_id("[CLS]"), tokenizer.control_id("[SEP]")

    @classmethod
    def from_file(cls, path: Path) -> Reader:
        """Build the reader from a file of retrained layers; raise ModelFileError where it does not fit its base."""
        file = GGUFFile(path)
        base = load(pull("starter-embedder"))
        model = BertReader(base)
        weights = {name: torch.from_numpy(file.dequantize(name)) for name in file.tensors}
        unknown = weights.keys() - model.state_dict().keys()
        if unknown or "span.weight" not in weights:
            raise ModelFileError(f"{path}: not a reader for the default embedder ({', '.join(sorted(unknown)[:3])})")
        model.load_state_dict(weights, strict=False)  # what the file leaves out stays the embedder's
        return cls(model, base.tokenizer, Calibration(**json.loads(file.metadata["modelworks.calibration"])))

    @torch.inference_mode()
    def read(self, question: str, passages: Sequence[str], headings: Sequence[str] = ()) -> list[Reading]:
        """The best span of each passage, in the passages' order.

        `headings`, one a passage, are read before the passages but hold no answer.
        """
        asked = self.tokenizer.encode(question, add_special=False)[: MAX_TOKENS // 2]
        room = MAX_TOKENS - len(asked) - 3
        bodies = [self.tokenizer.encode_with_offsets(passage) for passage in passages]
        above = [self.tokenizer.encode(heading, add_special=False)[:_HEADING_TOKENS] for heading in headings]
        above = above or [[] for _ in passages]
        lengths = [min(room, len(head) + len(body)) for head, (body, _) in zip(above, bodies, strict=True)]
        longest_first = sorted(range(len(passages)), key=lambda i: -lengths[i])
        readings: dict[int, Reading] = {}
        while longest_first:
            width = lengths[longest_first[0]] + len(asked) + 3
            rows = max(1, _BATCH_TOKENS // width)
            batch, longest_first = longest_first[:rows], longest_first[rows:]
            ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
            segments_BT, mask_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT)
            passage_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
            second = len(asked) + 2  # where the second segment begins
            for row, i in enumerate(batch):
                length = second + lengths[i] + 1
                context = [*above[i], *bodies[i][0]][: lengths[i]]
                ids_BT[row, :length] = torch.tensor([self._cls, *asked, self._sep, *context, self._sep])
                segments_BT[row, second:length] = 1
                mask_BT[row, :length] = 1
                passage_BT[row, second + len(above[i]) : length - 1] = True
            start_BT, end_BT = self.model(ids_BT, mask_BT, segments_BT)
            for i, (margin, start, end) in zip(batch, best_spans(start_BT, end_BT, passage_BT)):
                offsets, first = bodies[i][1], second + len(above[i])
                readings[i] = Reading(offsets[start - first][0], offsets[end - first][1], margin)
        return [readings[i] for i in range(len(passages))]


def best_spans(start_BT: Tensor, end_BT: Tensor, passage_BT: Tensor) -> list[tuple[float, int, int]]:
    """For each row: the margin over [CLS] (token 0), and the first and the last token of the best span.

    A span holds at most MAX_ANSWER_TOKENS tokens, all of them where `passage_BT` is true. Where it is true nowhere, the
    margin is minus infinity.
    """
    T = start_BT.shape[1]
    pair_BTT = start_BT[:, :, None] + end_BT[:, None, :]
    near_TT = torch.ones(T, T, dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1)
    allowed_BTT = near_TT & passage_BT[:, :, None] & passage_BT[:, None, :]
    best_B, at_B = pair_BTT.masked_fill(~allowed_BTT, -torch.inf).flatten(1).max(1)
    margin_B = best_B - start_BT[:, 0] - end_BT[:, 0]
    return [(margin, at // T, at % T) for margin, at in zip(margin_B.tolist(), at_B.tolist())]


@functools.cache
def default_reader() -> Reader:
    """The reader that ships with modelworks, loaded once."""
    with resources.as_file(resources.files("modelworks.retrieval") / "assets" / "reader.gguf") as path:
        return Reader.from_file(path)
