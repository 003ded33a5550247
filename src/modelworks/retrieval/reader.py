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
    def read(self, question: str, passages: Sequence[str]) -> list[Reading]:
        """The best span of each passage, in the passages' order."""
        encoded = [self.tokenizer.encode_pair(question, passage, max_tokens=MAX_TOKENS) for passage in passages]
        longest_first = sorted(range(len(passages)), key=lambda i: -len(encoded[i].ids))
        readings: dict[int, Reading] = {}
        while longest_first:
            width = len(encoded[longest_first[0]].ids)
            rows = max(1, _BATCH_TOKENS // width)
            batch, longest_first = longest_first[:rows], longest_first[rows:]
            ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
            segments_BT, mask_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT)
            for row, i in enumerate(batch):
                length = len(encoded[i].ids)
                ids_BT[row, :length] = torch.tensor(encoded[i].ids)
                segments_BT[row, :length] = torch.tensor(encoded[i].type_ids)
                mask_BT[row, :length] = 1
            passage_BT = segments_BT.bool()
            passage_BT[torch.arange(len(batch)), mask_BT.sum(1) - 1] = False  # the closing [SEP]
            start_BT, end_BT = self.model(ids_BT, mask_BT, segments_BT)
            margin_B, first_B, last_B = best_spans(start_BT, end_BT, passage_BT)
            for row, i in enumerate(batch):
                offsets = encoded[i].offsets
                start, end = offsets[int(first_B[row])][0], offsets[int(last_B[row])][1]
                readings[i] = Reading(start, end, float(margin_B[row]))
        return [readings[i] for i in range(len(passages))]


def best_spans(start_BT: Tensor, end_BT: Tensor, passage_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each row: the margin over [CLS] (token 0) and the first and last token of the best span in the passage.

    A span holds at most MAX_ANSWER_TOKENS tokens, all of them where `passage_BT` is true.
    """
    T = start_BT.shape[1]
    pair_BTT = start_BT[:, :, None] + end_BT[:, None, :]
    near_TT = torch.ones(T, T, dtype=torch.bool).triu().tril(MAX_ANSWER_TOKENS - 1)
    allowed_BTT = near_TT & passage_BT[:, :, None] & passage_BT[:, None, :]
    best_B, at_B = pair_BTT.masked_fill(~allowed_BTT, -torch.inf).flatten(1).max(1)
    return best_B - start_BT[:, 0] - end_BT[:, 0], at_B // T, at_B % T


@functools.cache
def default_reader() -> Reader:
    """The reader that ships with modelworks, loaded once."""
    with resources.as_file(resources.files("modelworks.retrieval") / "assets" / "reader.gguf") as path:
        return Reader.from_file(path)
