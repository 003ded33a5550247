"""What GGUF calls things: a file's metadata as a Hugging Face config, its tensors under checkpoint names.

Torch is imported only where values are read into it: a plan over packed blocks (`models.plan`) does without.

The names are llama.cpp's (https://github.com/ggml-org/llama.cpp: gguf-py/gguf/constants.py, convert_hf_to_gguf.py).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.core.gguf import GGUFFile

if TYPE_CHECKING:
    import torch

    from modelworks.models.registry import Family
    from modelworks.text.tokenizer import Tokenizer

_LLAMA = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA3 = _LLAMA | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GPT2 = {
    "token_embd": "wte",
    "position_embd": "wpe",
    "output_norm": "ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


@dataclass(frozen=True)
class Architecture:
    """A value of `general.architecture`: Hugging Face's model_type, and what layers and tensors are called there."""

    model_type: str
    layers: str
    parts: Mapping[str, str]

    def bare(self, name: str) -> str | None:
        """A tensor's bare checkpoint name (see `registry.Family`); None for one that has no place in such a model."""
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        if match is None or match[2] not in self.parts:
            return None
        layer, part, kind = match.groups()
        inner = f"{self.parts[part]}.{kind}"
        return inner if layer is None else f"{self.layers}.{layer}.{inner}"

    def row_order(self, name: str, rows: int, heads: int, kv_heads: int) -> NDArray[np.intp] | None:
        """Which rows of a matrix, or entries of a bias, to take in which order.

        llama.cpp's converter interleaves the two halves of each head of Llama's q and k, for the paper's rotary
        pairs (2i, 2i+1); ours are (i, i + D/2). Other families' files are not permuted.
        """
        match = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(?:weight|bias)", name)
        if match is None or self.model_type != "llama":
            return None
        groups = heads if match[1] == "q" else kv_heads
        return np.arange(rows).reshape(groups, rows // groups // 2, 2).swapaxes(1, 2).reshape(-1)


_ARCHITECTURES = {
    "llama": Architecture("llama", "layers", _LLAMA),
    "qwen2": Architecture("qwen2", "layers", _LLAMA),
    "qwen3": Architecture("qwen3", "layers", _LLAMA),
    "gemma3": Architecture("gemma3_text", "layers", _GEMMA3),
    "gpt2": Architecture("gpt2", "h", _GPT2),
}
# Llama 3's stretched frequencies are stored as this tensor of divisors; `_llama3_scaling` turns them back.
_ROPE_FREQS = "rope_freqs.weight"
_NUMBER = (int, float)


def architecture(file: GGUFFile) -> Architecture:
    """The architecture of a model's or an adapter's file. Raises ModelFileError for one that is not supported."""
    if file.architecture not in _ARCHITECTURES:
        raise ModelFileError(
            f"{file.path}: unknown architecture {file.architecture}; supported are {', '.join(_ARCHITECTURES)}"
        )
    return _ARCHITECTURES[file.architecture]


class GGUFModel:
    """A GGUF file as a checkpoint: `config` as in a config.json, `names` bare as in `registry.Family`.

    Raises ModelFileError for an architecture that is not supported, and for metadata that is missing or mistyped.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self._architecture = architecture(file)
        self.model_type = self._architecture.model_type
        self.names = {self._bare(name): name for name in file.tensors if name != _ROPE_FREQS}
        self.config = self._gpt2_config() if self.model_type == "gpt2" else self._llama_config()

    @functools.cached_property
    def family(self) -> Family:
        from modelworks.models.registry import family_of

        return family_of(self.config)

    def _bare(self, name: str) -> str:
        bare = self._architecture.bare(name)
        if bare is None:
            raise ModelFileError(f"{self.file.path}: tensor {name} has no place in a {self.model_type} model")
        return bare

    def _get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A metadata value of this architecture; without a default it must be there."""
        full = key if key.startswith("tokenizer.") else f"{self.file.architecture}.{key}"
        value = self.file.metadata.get(full, default)
        if value is None:
            raise ModelFileError(f"{self.file.path}: metadata key {full} is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ModelFileError(f"{self.file.path}: metadata key {full} is {value!r:.60}, of the wrong type")
        return value

    def _token_id(self, name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        return self._get(key, int) if key in self.file.metadata else None

    def _common_config(self) -> dict[str, Any]:
        layers = self._get("block_count", int)
        if layers > len(self.names):
            raise ModelFileError(f"{self.file.path}: claims {layers} layers, but has only {len(self.names)} tensors")
        ends = dict.fromkeys(id for id in (self._token_id("eos"), self._token_id("eot")) if id is not None)
        embedding = self.file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise ModelFileError(f"{self.file.path}: it has no token_embd.weight matrix")
        return {
            "model_type": self.model_type,
            "vocab_size": embedding.shape[0],
            "tie_word_embeddings": "output.weight" not in self.file.tensors,
            "bos_token_id": self._token_id("bos"),
            "eos_token_id": list(ends) if len(ends) > 1 else next(iter(ends), None),
            "pad_token_id": self._token_id("padding"),
        }

    def _gpt2_config(self) -> dict[str, Any]:
        return self._common_config() | {
            "n_positions": self._get("context_length", int),
            "n_embd": self._get("embedding_length", int),
            "n_layer": self._get("block_count", int),
            "n_head": self._get("attention.head_count", int),
            "n_inner": self._get("feed_forward_length", int, 4 * self._get("embedding_length", int)),
            "layer_norm_epsilon": self._get("attention.layer_norm_epsilon", _NUMBER),
        }

    def _llama_config(self) -> dict[str, Any]:
        heads, width = self._get("attention.head_count", int), self._get("embedding_length", int)
        context, layers = self._get("context_length", int), self._get("block_count", int)
        head_dim = self._get("attention.key_length", int, width // max(heads, 1))
        config = self._common_config() | {
            "max_position_embeddings": context,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "intermediate_size": self._get("feed_forward_length", int),
            "num_attention_heads": heads,
            "num_key_value_heads": self._get("attention.head_count_kv", int, heads),
            "head_dim": head_dim,
            "rms_norm_eps": self._get("attention.layer_norm_rms_epsilon", _NUMBER),
            "rope_theta": self._get("rope.freq_base", _NUMBER, 1e6 if self.model_type == "gemma3_text" else 1e4),
            "rope_scaling": self._rope_scaling(context, head_dim),
        }
        if self.model_type == "llama":
            config["attention_bias"] = "blk.0.attn_q.bias" in self.file.tensors
            config["mlp_bias"] = "blk.0.ffn_up.bias" in self.file.tensors
        if self.model_type == "gemma3_text":
            config["rope_local_base_freq"] = self._get("rope.freq_base_swa", _NUMBER, 1e4)
            config["sliding_window"] = self._get("attention.sliding_window", int)
            # The 27B model alone, known by its depth, scales by another number than its heads' size.
            config["query_pre_attn_scalar"] = width // heads if layers == 62 else head_dim
        return config

    def _rope_scaling(self, context: int, head_dim: int) -> dict[str, Any] | None:
        kind = self._get("rope.scaling.type", str, "none")
        if _ROPE_FREQS in self.file.tensors:
            return self._llama3_scaling(head_dim)
        if kind == "none":
            return None
        return {
            "rope_type": kind,
            "factor": self._get("rope.scaling.factor", _NUMBER),
            "original_max_position_embeddings": self._get("rope.scaling.original_context_length", int, context),
        }

    def _llama3_scaling(self, head_dim: int) -> dict[str, Any]:
        """Llama 3's scaling from the divisors that it gives: only `factor` has ever differed between models."""
        from modelworks.models.blocks.rope import RopeConfig

        divisors = self.file.dequantize(_ROPE_FREQS)
        rope = RopeConfig(
            rope_theta=self._get("rope.freq_base", _NUMBER, 1e4),
            rope_type="llama3",
            factor=round(float(divisors.max()), 4),
            original_max_position_embeddings=8192,
        )
        plain, _ = RopeConfig(rope_theta=rope.rope_theta).frequencies(head_dim, 0)
        scaled, _ = rope.frequencies(head_dim, 0)
        if divisors.shape != (head_dim // 2,) or not np.allclose(divisors, (plain / scaled).numpy(), rtol=1e-4):
            raise ConfigError(f"{self.file.path}: {_ROPE_FREQS} is not the scaling of any Llama 3 model")
        return rope.to_hf()

    def shape(self, bare: str) -> tuple[int, ...]:
        return self.file.tensors[self.names[bare]].shape

    def read(self, bare: str, out: torch.Tensor) -> None:
        """De-quantise a tensor into `out`, which has its shape, piece by piece and whatever its dtype and device."""
        import torch

        name = self.names[bare]
        order = self.row_order(name)
        # RMSNorm of Gemma holds w - 1, GGUF w.
        offset = 1 if self.model_type == "gemma3_text" and name.endswith("_norm.weight") else 0
        if out.dim() == 1:
            for _, row in self.file.pieces(name):
                values = row[0] - offset if order is None else row[0, order] - offset
                out.copy_(torch.from_numpy(values))
            return
        for start, piece in self.file.pieces(name, order):
            out[start : start + len(piece)].copy_(torch.from_numpy(piece))

    def row_order(self, name: str) -> NDArray[np.intp] | None:
        """`Architecture.row_order` of one of the file's tensors."""
        heads, kv_heads = (self.config.get(key, 0) for key in ("num_attention_heads", "num_key_value_heads"))
        return self._architecture.row_order(name, self.file.tensors[name].shape[0], heads, kv_heads)

    def tokenizer(self) -> Tokenizer | None:
        if "tokenizer.ggml.model" not in self.file.metadata:
            return None
        from modelworks.text.tokenizer import Tokenizer

        return Tokenizer.from_gguf(self.file.metadata)

    def generation_defaults(self) -> dict[str, Any]:
        return {}
