"""What every causal language model is to the layers above: one call from token ids to logits.

Shapes: B batch, T new tokens, S = cached + T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modelworks.models.blocks.attention import DOCUMENTS, KVCache

if TYPE_CHECKING:
    from modelworks.text.tokenizer import Tokenizer


class Pretrained(nn.Module):
    """A module that `load` builds from a config and `save` writes, and what comes with its weights."""

    config: Any
    tokenizer: Tokenizer | None = None
    """Set by `load` where the model's files hold one."""
    generation_defaults: Mapping[str, Any] = MappingProxyType({})
    """What the model's authors recommend for sampling: the fields of `generation_config.json`."""
    source: Path | None = None
    """The folder or file that it was loaded from."""


class LanguageModel(Pretrained):
    """A causal language model. A family implements the three members that raise here."""

    @property
    def context_length(self) -> int:
        """The most tokens, prompt and answer together, that the model was made for."""
        raise NotImplementedError

    def hidden_states(
        self, input_ids_BT: Tensor, positions_BT: Tensor, attention_mask_BS: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """The last layer's output after the final norm, x_BTC."""
        raise NotImplementedError

    def output_embedding(self) -> Tensor:
        """The head's matrix w_VC: the input embedding itself where the two are tied."""
        raise NotImplementedError

    def forward(
        self,
        input_ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        attention_mask_BS: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
        readout: Callable[[Tensor, Tensor], Any] = nn.functional.linear,
    ) -> Any:
        """Token ids to logits_BTV, or logits_B1V of the last token with `last_only`.

        `attention_mask_BS` is 1 for tokens and 0 for padding, on either side, over cached and new tokens alike. Where
        a row packs several documents it numbers them upwards from 1, and no token sees those of another document.
        Positions count the tokens of a document from 0, padding not counted, unless given. Logits at padding are
        finite and meaningless. The new keys and values are appended to `cache`.

        `readout` is what is made of the last hidden states x_BTC and the head's matrix w_VC; its result is returned.
        A loss that never holds all logits goes there, so that it runs within the module's own call, where sharded
        parameters are whole and hooks have run. Raises ValueError where shapes disagree.
        """
        if input_ids_BT.dim() != 2 or 0 in input_ids_BT.shape:
            raise ValueError(f"input_ids must be (batch, tokens), neither empty; got {tuple(input_ids_BT.shape)}")
        B, T = input_ids_BT.shape
        S = T + (cache.length if cache is not None else 0)
        if attention_mask_BS is not None and attention_mask_BS.shape != (B, S):
            got = tuple(attention_mask_BS.shape)
            raise ValueError(f"attention_mask must be {(B, S)}, cached tokens included; got {got}")
        if positions_BT is None:
            if attention_mask_BS is None:
                positions_BT = torch.arange(S - T, S, device=input_ids_BT.device).expand(B, T)
            else:
                positions_BT = _positions(attention_mask_BS)[:, S - T :]
        elif positions_BT.shape != (B, T):
            raise ValueError(f"positions must be {(B, T)}; got {tuple(positions_BT.shape)}")
        x_BTC = self.hidden_states(input_ids_BT, positions_BT, attention_mask_BS, cache)
        if last_only:
            x_BTC = x_BTC[:, -1:]
        return readout(x_BTC, self.output_embedding())


def _positions(attention_mask_BS: Tensor) -> Tensor:
    """Each token's place in its document, from 0; padding, which none sees, has some place that is not negative."""
    document_BS = attention_mask_BS.long()
    if (document_BS > DOCUMENTS).any():
        raise ValueError("documents that continue others need their positions given")
    count_BS = (document_BS > 0).cumsum(-1) - 1
    latest_BS = document_BS.cummax(-1).values
    starts_BS = latest_BS > nn.functional.pad(latest_BS[:, :-1], (1, 0))
    return (count_BS - (count_BS * starts_BS).cummax(-1).values).clamp_min(0)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off, and afterwards as it was: a rollout in the midst of training must sample the model itself."""
    if not model.training:
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
