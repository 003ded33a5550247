"""The Llama family in one file: Llama 2 and 3, SmolLM2, Mistral, Qwen2, Qwen2.5, Qwen3 and Gemma 3 (text).

A pre-norm decoder with RMSNorm, rotary positions, grouped-query attention and a gated perceptron
(Touvron et al. 2023, arXiv:2307.09288). `model_type` says which of the family it is, and with that:

    llama        biases on all projections where asked for (`attention_bias`, `mlp_bias`)
    mistral      every layer slides over `sliding_window` tokens, if set (arXiv:2310.06825)
    qwen2        biases on q, k and v; the upper layers may slide (arXiv:2407.10671)
    qwen3        RMSNorm on each head of q and k (arXiv:2505.09388)
    gemma3_text  that too, norms before and after each block, scaled embeddings, GeGLU, and five sliding layers with
                 their own rotary base to each full one (arXiv:2503.19786)

Parameters have the names of Hugging Face's checkpoints. A tied head is the embedding itself: there is no `lm_head`.

Shapes: B batch, T new tokens, S = cached + T tokens, C hidden size, H query heads, K key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.models.base import LanguageModel
from modelworks.models.blocks.attention import KVCache, Mask, attend, causal_mask
from modelworks.models.blocks.mlp import GatedMLP, activation
from modelworks.models.blocks.norm import RMSNorm
from modelworks.models.blocks.rope import RopeConfig, rotary, rotate
from modelworks.models.config import MAX_LAYERS, check_flags, check_numbers, check_sizes, given, object_in, token_ids

FULL, SLIDING = "full_attention", "sliding_attention"

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}

# What a config.json may leave out, because it is Hugging Face's default for the type.
_QWEN = {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "max_position_embeddings": 131_072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_window_layers": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "gemma3_text": {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
}
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIZES = (*_REQUIRED, "num_key_value_heads", "head_dim", "max_position_embeddings")
_UNSUPPORTED = ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention")


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Field names are those of the Hugging Face config; `rope` has an entry for full and for sliding layers.

    Raises ConfigError for a combination that is no model.
    """

    architectures: ClassVar[Mapping[str, str]] = ARCHITECTURES
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = _DEFAULTS

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    layer_types: tuple[str, ...]
    rope: Mapping[str, RopeConfig]
    sliding_window: int | None = None
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    query_pre_attn_scalar: int | None = None
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        check_sizes(vars(self), _SIZES)
        check_numbers(vars(self), ("rms_norm_eps", "initializer_range"))
        check_flags(vars(self), ("attention_bias", "mlp_bias", "tie_word_embeddings"))
        if self.query_pre_attn_scalar is not None:
            check_sizes(vars(self), ["query_pre_attn_scalar"])
        activation(self.hidden_act)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} must be even: rotary positions turn pairs of dimensions")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(f"{len(self.layer_types)} layer_types for num_hidden_layers={self.num_hidden_layers}")
        for kind in self.layer_types:
            if kind not in (FULL, SLIDING):
                raise ConfigError(f"layer type {kind!r} is not supported; supported are {FULL} and {SLIDING}")
        if SLIDING in self.layer_types:
            check_sizes(vars(self), ["sliding_window"])

    @property
    def is_gemma(self) -> bool:
        return self.model_type == "gemma3_text"

    @property
    def qk_norm(self) -> bool:
        return self.model_type in ("qwen3", "gemma3_text")

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def attention_scale(self) -> float:
        """What q k' is multiplied with before the softmax."""
        return float(self.query_pre_attn_scalar or self.head_dim) ** -0.5

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read a `config.json` as transformers 4 or 5 writes it; for a multimodal Gemma 3, its language half.

        Raises ConfigError where something is missing or asks for what is not implemented.
        """
        if config.get("model_type") == "gemma3":
            config = {**object_in(config, "text_config"), "model_type": "gemma3_text"}
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in cls.defaults:
            raise ConfigError(f"unknown model_type {kind!r}; the Llama family has {', '.join(cls.defaults)}")
        for name in _UNSUPPORTED:
            if config.get(name):
                raise ConfigError(f"{kind} with {name}={config[name]} is not supported")
        config = {**cls.defaults[kind], **config}
        if kind == "gemma3_text":
            config["hidden_act"] = config.get("hidden_activation") or config["hidden_act"]
        check_sizes(config, (*_REQUIRED, "max_position_embeddings"))
        check_sizes(config, ["num_hidden_layers"], most=MAX_LAYERS)
        if config.get("num_key_value_heads") is None:
            config["num_key_value_heads"] = config["num_attention_heads"]
        if config.get("head_dim") is None:
            config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
        if kind == "llama" or (kind in ("qwen2", "qwen3") and not config.get("use_sliding_window")):
            config["sliding_window"] = None
        config["eos_token_id"] = token_ids(config.get("eos_token_id"))
        config["layer_types"] = _layer_types(kind, config)
        config["rope"] = _rope(kind, config)
        return cls(**given(config, (f.name for f in fields(cls))))

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers reads back as the same model.

        Rotary parameters are written both as transformers 5 (`rope_parameters`) and as older readers know them.
        """
        written = {name: value for name, value in vars(self).items() if name != "rope"}
        written["architectures"] = [self.architectures[self.model_type]]
        if self.query_pre_attn_scalar is None:
            del written["query_pre_attn_scalar"]
        if self.model_type in ("llama", "mistral"):
            del written["layer_types"]
        if self.model_type in ("qwen2", "qwen3"):
            written["use_sliding_window"] = self.sliding_window is not None
        main = self.rope[FULL]
        written["rope_theta"] = main.rope_theta
        written["rope_parameters"] = main.to_hf()
        if main.rope_type != "default":
            written["rope_scaling"] = main.to_hf()
        if self.is_gemma:
            written["hidden_activation"] = written.pop("hidden_act")
            written["rope_local_base_freq"] = self.rope[SLIDING].rope_theta
            written["rope_parameters"] = {kind: rope.to_hf() for kind, rope in self.rope.items()}
        return written


def _layer_types(kind: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Full or sliding, layer by layer, by each type's own rule where the config does not list them."""
    layers = range(config["num_hidden_layers"])
    if listed := config.get("layer_types"):
        if not isinstance(listed, list | tuple):
            raise ConfigError(f"layer_types must be a list, got {listed!r}")
        return tuple(listed)
    if config.get("sliding_window") is None:
        return tuple(FULL for _ in layers)
    if kind == "gemma3_text":
        check_sizes(config, ["sliding_window_pattern"])
        pattern = config["sliding_window_pattern"]
        return tuple(SLIDING if (layer + 1) % pattern else FULL for layer in layers)
    check_numbers(config, ["max_window_layers"])
    first = config["max_window_layers"]
    return tuple(SLIDING if layer >= first else FULL for layer in layers)


def _rope(kind: str, config: Mapping[str, Any]) -> dict[str, RopeConfig]:
    """Rotary parameters of each layer type: the same for all, but for Gemma 3."""
    limit, theta = config["max_position_embeddings"], config.get("rope_theta") or 10_000.0
    written, scaling = object_in(config, "rope_parameters"), object_in(config, "rope_scaling")
    if kind != "gemma3_text":
        rope = RopeConfig.from_hf(
            scaling or written, theta=written.get("rope_theta") or theta, max_position_embeddings=limit
        )
        return {FULL: rope, SLIDING: rope}
    # Only the full layers are stretched: the sliding ones never look further than they were trained to.
    return {
        FULL: RopeConfig.from_hf({**object_in(written, FULL), **scaling}, theta=theta, max_position_embeddings=limit),
        SLIDING: RopeConfig.from_hf(
            object_in(written, SLIDING), theta=config["rope_local_base_freq"], max_position_embeddings=limit
        ),
    }


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (Ainslie et al. 2023, arXiv:2305.13245)."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.scale = config.attention_scale
        width, wide = config.hidden_size, config.num_attention_heads * config.head_dim
        narrow = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, wide, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, narrow, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, narrow, bias=config.qkv_bias)
        self.o_proj = nn.Linear(wide, width, bias=config.attention_bias)
        if config.qk_norm:
            self.q_norm: nn.Module = RMSNorm(config.head_dim, config.rms_norm_eps, unit_offset=config.is_gemma)
            self.k_norm: nn.Module = RMSNorm(config.head_dim, config.rms_norm_eps, unit_offset=config.is_gemma)
        else:
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()

    def forward(self, x_BTC: Tensor, cos_sin: tuple[Tensor, Tensor], mask: Mask, cache: KVCache | None) -> Tensor:
        B, T, _ = x_BTC.shape

        def heads(x: Tensor) -> Tensor:
            return x.view(B, T, -1, self.head_dim)

        q_BHTD = rotate(self.q_norm(heads(self.q_proj(x_BTC))).transpose(1, 2), *cos_sin)
        k_BKTD = rotate(self.k_norm(heads(self.k_proj(x_BTC))).transpose(1, 2), *cos_sin)
        v_BKTD = heads(self.v_proj(x_BTC)).transpose(1, 2)
        if cache is not None:
            k_BKTD, v_BKTD = cache.update(self.layer, k_BKTD, v_BKTD)
        mixed_BHTD = attend(q_BHTD, k_BKTD, v_BKTD, mask, scale=self.scale)
        return self.o_proj(mixed_BHTD.transpose(1, 2).reshape(B, T, -1))


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); Gemma also norms what each of the two adds."""

    def __init__(self, config: LlamaConfig, layer: int, mlp: nn.Module) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(config.hidden_size, config.rms_norm_eps, unit_offset=config.is_gemma)

        self.is_gemma = config.is_gemma
        self.self_attn = Attention(config, layer)
        self.mlp = mlp
        self.input_layernorm = norm()
        # By this name Llama means the norm before the perceptron, Gemma the one on what attention adds.
        self.post_attention_layernorm = norm()
        if config.is_gemma:
            self.pre_feedforward_layernorm = norm()
            self.post_feedforward_layernorm = norm()

    def forward(self, x_BTC: Tensor, cos_sin: tuple[Tensor, Tensor], mask: Mask, cache: KVCache | None) -> Tensor:
        added_BTC = self.self_attn(self.input_layernorm(x_BTC), cos_sin, mask, cache)
        if not self.is_gemma:
            x_BTC = x_BTC + added_BTC
            return x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))
        x_BTC = x_BTC + self.post_attention_layernorm(added_BTC)
        return x_BTC + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x_BTC)))


class Decoder(nn.Module):
    """Embedding, layers and final norm; `Llama` calls them, this holds them under their Hugging Face names."""

    def __init__(self, config: LlamaConfig, mlps: Iterable[nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer, mlp) for layer, mlp in enumerate(mlps))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, unit_offset=config.is_gemma)


class Llama(LanguageModel):
    """A language model of the Llama family; see `LanguageModel.forward`."""

    config: LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config, map(self.feed_forward, range(config.num_hidden_layers)))
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._initialise)

    def feed_forward(self, layer: int) -> nn.Module:
        """What a layer has after its attention, x_BTC to x_BTC; a family with something else there overrides it."""
        config = self.config
        return GatedMLP(config.hidden_size, config.intermediate_size, act=config.hidden_act, bias=config.mlp_bias)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def context_length(self) -> int:
        return self.config.max_position_embeddings

    def output_embedding(self) -> Tensor:
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def hidden_states(
        self, input_ids_BT: Tensor, positions_BT: Tensor, attention_mask_BS: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        config = self.config
        x_BTC = self.model.embed_tokens(input_ids_BT)
        if config.is_gemma:
            # Rounded to the weights' dtype, as in training.
            x_BTC = x_BTC * torch.tensor(config.hidden_size**0.5, dtype=x_BTC.dtype, device=x_BTC.device)
        T = input_ids_BT.shape[1]
        S = T + (cache.length if cache is not None else 0)
        cos_sin: dict[str, tuple[Tensor, Tensor]] = {}
        mask: dict[str, Mask] = {}
        for kind in dict.fromkeys(config.layer_types):
            cos_sin[kind] = rotary(config.rope[kind], positions_BT, config.head_dim, x_BTC.dtype)
            window = config.sliding_window if kind == SLIDING else None
            mask[kind] = causal_mask(T, S, attention_mask_BS=attention_mask_BS, window=window, device=x_BTC.device)
        for kind, layer in zip(config.layer_types, self.model.layers, strict=True):
            x_BTC = layer(x_BTC, cos_sin[kind], mask[kind], cache)
        return self.model.norm(x_BTC)
