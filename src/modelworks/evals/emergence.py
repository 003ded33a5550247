"""Why abilities seem to come all at once: a smooth gain in each token, seen through a score that is not.

Schaeffer et al. 2023, "Are Emergent Abilities of Large Language Models a Mirage?" (arXiv:2304.15004), sections 2 and 3.
If each token of an answer is right with probability p, independently of the others, then exact match of L tokens is
p^L, a cliff in the size of the model, while the token edit distance L (1 - p) falls as smoothly as the loss does. Look
at both before calling anything emergent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def token_probability(loss: ArrayLike) -> NDArray[np.float64]:
    """The probability of the right token, exp(-loss), of a loss in nats a token."""
    return np.exp(-np.asarray(loss, dtype=np.float64))


def power_law_loss(N: ArrayLike, *, scale: float, alpha: float) -> NDArray[np.float64]:
    """(N / scale)^-alpha: the loss of a model of N parameters on the answers' tokens (their eq. 1)."""
    return (np.asarray(N, dtype=np.float64) / scale) ** -alpha


def exact_match(p: ArrayLike, length: int) -> NDArray[np.float64]:
    """The expected exact match of answers of `length` tokens. Raises ValueError for what is no probability."""
    return _probability(p) ** _length(length)


def token_edit_distance(p: ArrayLike, length: int) -> NDArray[np.float64]:
    """The expected number of wrong tokens among `length`. Raises ValueError for what is no probability."""
    return _length(length) * (1 - _probability(p))


def _probability(p: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(p, dtype=np.float64)
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"a probability is from 0 to 1, got {p!r}")
    return found


def _length(length: int) -> int:
    if length < 1:
        raise ValueError(f"an answer has a token or more, got {length}")
    return length
