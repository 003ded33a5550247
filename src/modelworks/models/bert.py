"""BERT (Devlin et al. 2018, arXiv:1810.04805): the encoder, and the span reader built on it.

Reads BERT and MiniLM checkpoints by their Hugging Face configs. Post-norm layers, learned positions, GELU.

Shapes: B batch, T tokens, C hidden size, H heads, D head size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.models.base import Pretrained
from modelworks.models.blocks.mlp import gelu
from modelworks.models.config import MAX_LAYERS, check_numbers, check_sizes, given

_REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_OPTIONAL = ("max_position_embeddings", "type_vocab_size", "layer_norm_eps")


@dataclass(frozen=True)
class BertConfig:
    """Field names are those of the Hugging Face config."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_sizes(vars(self), (*_REQUIRED, "max_position_embeddings", "type_vocab_size"))
        check_sizes(vars(self), ["num_hidden_layers"], most=MAX_LAYERS)
        check_numbers(vars(self), ("layer_norm_eps", "dropout"))
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> BertConfig:
        """Read a `config.json`; raise ConfigError where it asks for a variant that is not implemented."""
        activation = config.get("hidden_act", "gelu")
        if activation != "gelu":
            raise ConfigError(f"BERT with hidden_act={activation!r} is not supported; only 'gelu' is")
        positions = config.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise ConfigError(f"BERT with position_embedding_type={positions!r} is not supported; only 'absolute' is")
        if missing := [name for name in _REQUIRED if config.get(name) is None]:
            raise ConfigError(f"BERT config lacks {', '.join(missing)}")
        values = given(config, (*_REQUIRED, *_OPTIONAL))
        return cls(**values, dropout=config.get("hidden_dropout_prob", 0.1))

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers reads back as the same encoder."""
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "type_vocab_size": self.type_vocab_size,
            "layer_norm_eps": self.layer_norm_eps,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
        }


class BertLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each followed by residual addition and LayerNorm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.dropout = config.dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)
        self.mlp_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x_BTC: Tensor, bias_B11T: Tensor) -> Tensor:
        B, T, C = x_BTC.shape

        def heads(projection: nn.Linear) -> Tensor:
            return projection(x_BTC).view(B, T, self.num_heads, -1).transpose(1, 2)

        drop = self.dropout if self.training else 0.0
        mixed_BHTD = F.scaled_dot_product_attention(
            heads(self.query), heads(self.key), heads(self.value), attn_mask=bias_B11T, dropout_p=drop
        )
        attended_BTC = self.output(mixed_BHTD.transpose(1, 2).reshape(B, T, C))
        x_BTC = self.attention_norm(x_BTC + F.dropout(attended_BTC, self.dropout, self.training))
        transformed_BTC = self.down(gelu(self.up(x_BTC)))
        return self.mlp_norm(x_BTC + F.dropout(transformed_BTC, self.dropout, self.training))


class BertEncoder(Pretrained):
    """Token ids to one vector a token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, width)
        self.segment_embedding = nn.Embedding(config.type_vocab_size, width)
        self.embedding_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None = None, token_type_ids_BT: Tensor | None = None
    ) -> Tensor:
        """Return x_BTC. The mask is 1 for tokens and 0 for padding, which may stand only at the end."""
        T = input_ids_BT.shape[1]
        if attention_mask_BT is None:
            attention_mask_BT = torch.ones_like(input_ids_BT)
        if token_type_ids_BT is None:
            token_type_ids_BT = torch.zeros_like(input_ids_BT)
        positions_T = torch.arange(T, device=input_ids_BT.device)
        x_BTC = self.embedding_norm(
            self.token_embedding(input_ids_BT)
            + self.position_embedding(positions_T)
            + self.segment_embedding(token_type_ids_BT)
        )
        x_BTC = F.dropout(x_BTC, self.config.dropout, self.training)
        # A finite minimum, not -inf, keeps a row that is all padding finite.
        lowest = torch.finfo(x_BTC.dtype).min
        bias_B11T = (1 - attention_mask_BT[:, None, None, :].to(x_BTC.dtype)) * lowest
        for layer in self.layers:
            x_BTC = layer(x_BTC, bias_B11T)
        return x_BTC

    def embed(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Mean over the tokens of the last layer, scaled to length 1 (Reimers and Gurevych 2019): e_BC."""
        x_BTC = self(input_ids_BT, attention_mask_BT)
        mask_BT1 = attention_mask_BT.unsqueeze(-1).to(x_BTC.dtype)
        mean_BC = (x_BTC * mask_BT1).sum(1) / mask_BT1.sum(1).clamp_min(1)
        return F.normalize(mean_BC, dim=-1)


class BertReader(Pretrained):
    """Finds the span of a passage that answers a question, or says that none does.

    The input is `[CLS] question [SEP] passage [SEP]`. Two logits a token score the span's first and last token;
    the logits at [CLS] score "no answer" (Devlin et al. 2018, section 4.3).
    """

    def __init__(self, encoder: BertEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.span = nn.Linear(encoder.config.hidden_size, 2)

    @property
    def config(self) -> BertConfig:
        return self.encoder.config

    def forward(
        self, input_ids_BT: Tensor, attention_mask_BT: Tensor, token_type_ids_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return start logits and end logits, each B x T, unmasked."""
        logits_BT2 = self.span(self.encoder(input_ids_BT, attention_mask_BT, token_type_ids_BT))
        start_BT, end_BT = logits_BT2.unbind(-1)
        return start_BT, end_BT


_EMBEDDINGS = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "segment_embedding": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


def hf_name(name: str) -> str:
    """The Hugging Face name (of `BertModel`) of one of `BertEncoder`'s parameters."""
    if match := re.fullmatch(r"layers\.(\d+)\.(\w+)\.(weight|bias)", name):
        index, module, kind = match.groups()
        return f"encoder.layer.{index}.{_LAYER[module]}.{kind}"
    module, kind = name.split(".")
    return f"{_EMBEDDINGS[module]}.{kind}"


def reader_hf_name(name: str) -> str:
    """The Hugging Face name (of `BertForQuestionAnswering`) of one of `BertReader`'s parameters."""
    if name.startswith("span."):
        return name.replace("span.", "qa_outputs.")
    return f"bert.{hf_name(name.removeprefix('encoder.'))}"
