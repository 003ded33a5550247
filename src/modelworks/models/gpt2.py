"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

A pre-norm decoder with LayerNorm, learned positions, multi-head attention and a GELU perceptron; biases everywhere,
the head tied to the embedding. Parameters have the names of Hugging Face's checkpoints.

Shapes: B batch, T new tokens, S = cached + T tokens, C hidden size, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.models.base import LanguageModel
from modelworks.models.blocks.attention import KVCache, Mask, attend, causal_mask
from modelworks.models.blocks.mlp import activation
from modelworks.models.config import MAX_LAYERS, check_flags, check_numbers, check_sizes, given, token_ids

_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
_NUMBERS = ("layer_norm_epsilon", "initializer_range", "embd_pdrop", "resid_pdrop", "attn_pdrop")


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """Field names and defaults are those of the Hugging Face config."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int = 3072
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    embd_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        check_sizes(vars(self), _SIZES)
        check_sizes(vars(self), ["n_layer"], most=MAX_LAYERS)
        check_numbers(vars(self), _NUMBERS)
        check_flags(vars(self), ["tie_word_embeddings"])
        activation(self.activation_function)
        if max(self.embd_pdrop, self.resid_pdrop, self.attn_pdrop) >= 1:
            raise ConfigError("a dropout of 1 or more drops everything")
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}")

    @property
    def num_hidden_layers(self) -> int:
        return self.n_layer

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> GPT2Config:
        """Read a `config.json`; raise ConfigError where it asks for a variant that is not implemented."""
        if config.get("scale_attn_weights") is False:
            raise ConfigError("GPT-2 with scale_attn_weights=false is not supported")
        for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
            if config.get(name):
                raise ConfigError(f"GPT-2 with {name}=true is not supported")
        values = given(config, (*_SIZES, *_NUMBERS, "activation_function", "tie_word_embeddings"))
        values |= {name: config[name] for name in ("bos_token_id", "pad_token_id") if name in config}
        if "eos_token_id" in config:
            values["eos_token_id"] = token_ids(config["eos_token_id"])
        if "n_inner" not in values:
            check_sizes({"n_embd": 768, **values}, ["n_embd"])
            values["n_inner"] = 4 * values.get("n_embd", 768)
        return cls(**values)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers reads back as the same model."""
        return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **vars(self)}


class Attention(nn.Module):
    """Multi-head attention; `c_attn` gives q, k and v side by side."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.n_embd // config.n_head
        self.attn_pdrop, self.resid_pdrop = config.attn_pdrop, config.resid_pdrop
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x_BTC: Tensor, mask: Mask, cache: KVCache | None) -> Tensor:
        B, T, C = x_BTC.shape
        q_BHTD, k_BHTD, v_BHTD = (
            part.view(B, T, -1, self.head_dim).transpose(1, 2) for part in self.c_attn(x_BTC).chunk(3, dim=-1)
        )
        if cache is not None:
            k_BHTD, v_BHTD = cache.update(self.layer, k_BHTD, v_BHTD)
        drop = self.attn_pdrop if self.training else 0.0
        mixed_BHTD = attend(q_BHTD, k_BHTD, v_BHTD, mask, scale=self.head_dim**-0.5, dropout=drop)
        added_BTC = self.c_proj(mixed_BHTD.transpose(1, 2).reshape(B, T, C))
        return F.dropout(added_BTC, self.resid_pdrop, self.training)


class MLP(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.n_inner)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd)
        self.act = activation(config.activation_function)
        self.resid_pdrop = config.resid_pdrop

    def forward(self, x_BTC: Tensor) -> Tensor:
        return F.dropout(self.c_proj(self.act(self.c_fc(x_BTC))), self.resid_pdrop, self.training)


class Block(nn.Module):
    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor, mask: Mask, cache: KVCache | None) -> Tensor:
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), mask, cache)
        return x_BTC + self.mlp(self.ln_2(x_BTC))


class Transformer(nn.Module):
    """Embeddings, blocks and final norm; `GPT2` calls them, this holds them under their Hugging Face names."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)


class GPT2(LanguageModel):
    """A GPT-2 language model; see `LanguageModel.forward`. Positions past `n_positions` raise ContextLengthError."""

    config: GPT2Config

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(self._initialise)
        # Each layer adds to the stream twice: scaled so that the stream's variance does not grow with depth.
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=config.initializer_range / (2 * config.n_layer) ** 0.5)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def context_length(self) -> int:
        return self.config.n_positions

    def output_embedding(self) -> Tensor:
        return self.transformer.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def hidden_states(
        self, input_ids_BT: Tensor, positions_BT: Tensor, attention_mask_BS: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        if (last := int(positions_BT.max())) >= self.config.n_positions:
            raise ContextLengthError(
                f"position {last} is beyond the model's context of {self.config.n_positions} tokens"
            )
        T = input_ids_BT.shape[1]
        S = T + (cache.length if cache is not None else 0)
        mask = causal_mask(T, S, attention_mask_BS=attention_mask_BS, window=None, device=input_ids_BT.device)
        x_BTC = self.transformer.wte(input_ids_BT) + self.transformer.wpe(positions_BT)
        x_BTC = F.dropout(x_BTC, self.config.embd_pdrop, self.training)
        for block in self.transformer.h:
            x_BTC = block(x_BTC, mask, cache)
        return self.transformer.ln_f(x_BTC)
