"""What data hands to training: batches, and streams of them that can be stopped and resumed.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

Batch = dict[str, Tensor]
"""Tensors by name. Those of language models are

- `input_ids` (B, T): what the model reads;
- `targets` (B, T): the token to predict at each place, so already shifted: `targets[:, t]` follows `input_ids[:, t]`;
- `weights` (B, T), float: what a target counts in the loss; 0 where nothing is to be learned (prompts, padding, the end
  of a packed document);
- `attention_mask` (B, T): 0 for padding, else the number of the token's document in its row, from 1 upwards, with
  that of the document that it continues (`models.blocks.attention.continuing`);
- `positions` (B, T): each token's place in its document.

The last two may be absent where every row is one whole document. Other objectives add names of their own.
"""


class BatchStream(Protocol):
    """An iterable of batches, without end or with one, that knows where it is.

    `restore` of what `state` gave makes another stream of the same data go on with the very batch that would have come
    next. A state is JSON, small, and names what it depends on, so that `restore` can refuse one of other data
    (ConfigError).
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...
