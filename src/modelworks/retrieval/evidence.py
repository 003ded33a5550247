"""What speaks for a sentence being the answer to a question, and how likely it is one then."""

from __future__ import annotations

import math
from dataclasses import dataclass

LOWEST_MARGIN = -30.0
"""A sentence below it is hopeless; an infinite margin must not reach a sum."""
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """The best answer span within one sentence of a passage, `passage[start:end]`."""

    start: int
    end: int
    margin: float
    """Score of the span less the score of "no answer", in logits; minus infinity where there is nothing to read."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a sentence being the answer."""

    margin: float
    """`Reading.margin`."""
    cosine: float
    """Between the embeddings of question and sentence."""
    coverage: float
    """Share of the question's content words that the sentence holds, 0 to 1."""
    context: float
    """The same for its whole passage with the headings above it."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Turns evidence for a sentence into the probability that it answers (logistic regression).

    Fitted by `recipes/reader/calibrate.py`, with the default embedder, on two SQuAD2 articles that nothing else is
    trained or reported on.
    """

    margin: float
    cosine: float
    coverage: float
    context: float
    bias: float
    threshold: float
    """A question is refused where its likeliest sentence is below this."""

    def probability(self, evidence: Evidence) -> float:
        z = (
            self.margin * max(evidence.margin, LOWEST_MARGIN)
            + self.cosine * evidence.cosine
            + self.coverage * evidence.coverage
            + self.context * evidence.context
            + self.bias
        )
        return 1 / (1 + math.exp(-z))
