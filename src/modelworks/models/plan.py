"""The Llama family's forward as a plan for the native loop: from a GGUF file, its blocks kept packed, or a torch model.

A file's plan is made without torch, unless its rotary frequencies are stretched or it is a Gemma, whose configs only
`LlamaConfig` reads: a process that generates from a packed file takes little more memory than the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError, ModelFileError, ModelworksError
from modelworks.core.gguf import GGUFFile
from modelworks.kernels.blocks import DECODERS, Bytes, decode
from modelworks.kernels.linear import (
    TILE,
    Floats,
    Groups,
    Packed,
    group_bytes,
    group_count,
    pack_into,
    quantize,
)
from modelworks.kernels.native import native
from modelworks.kernels.program import LOGITS, NO_WINDOW, AddNorm, Attend, Embed, Linear, Norm, Plan, Step
from modelworks.models.config import check_numbers, check_sizes
from modelworks.models.gguf import GGUFModel

if TYPE_CHECKING:
    from modelworks.models.base import LanguageModel
    from modelworks.models.llama import LlamaConfig

Format = Literal["q8", "q4"]

_PIECE = 1 << 20  # weights that are unpacked at a time


def plan(source: LanguageModel | str | Path, weights: Format = "q8") -> Plan:
    """The plan of a `.gguf` file, in the file's own types, or of a torch model, packed as `weights` says.

    "q8" rounds weights to 8 bits and "q4" to 4, by groups of 32. Raises ConfigError for a family or a feature that has
    no plan (`TorchRunner` then serves), and ModelFileError for a file that is damaged or holds something else.
    """
    if isinstance(source, str | Path):
        return _plan_file(Path(source))
    return _plan_model(source, weights)


def native_plan(path: Path) -> Plan | None:
    """The plan of a GGUF file, or None where torch must serve: other files, no kernels, a family without a plan."""
    if not path.is_file() or native() is None:
        return None
    try:
        return plan(path)
    except ConfigError:
        return None


@dataclass(frozen=True)
class _Shape:
    """What the steps need to know of a config; window and rope layer by layer."""

    model_type: str
    vocab: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    tied: bool
    eps: float
    act: str
    attention_scale: float
    windows: tuple[int, ...]
    ropes: tuple[tuple[Floats, float], ...]
    embedding_scale: float = 1.0

    @classmethod
    def of(cls, config: LlamaConfig) -> _Shape:
        if any(rope.rope_type == "dynamic" for rope in config.rope.values()):
            raise ConfigError("rope_type dynamic has no plan: its frequencies change with a sequence's length")
        ropes = {}
        for kind, rope in config.rope.items():
            frequencies, factor = rope.frequencies(config.head_dim, 0)
            ropes[kind] = frequencies.numpy(), factor
        sliding = config.sliding_window or NO_WINDOW
        return cls(
            config.model_type,
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.max_position_embeddings,
            config.tie_word_embeddings,
            config.rms_norm_eps,
            config.hidden_act,
            config.attention_scale,
            tuple(sliding if kind == "sliding_attention" else NO_WINDOW for kind in config.layer_types),
            tuple(ropes[kind] for kind in config.layer_types),
            config.hidden_size**0.5 if config.is_gemma else 1.0,
        )

    @classmethod
    def of_plain(cls, config: dict[str, Any]) -> _Shape:
        """From a GGUF file's config, without torch: full attention and unstretched rotary positions."""
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
        check_sizes(config, (*sizes, "num_hidden_layers", "head_dim", "max_position_embeddings"))
        check_numbers(config, ("rms_norm_eps", "rope_theta"))
        heads, kv_heads, head_dim = (config[n] for n in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        if heads % kv_heads or head_dim % 2 or config["rope_theta"] <= 0:
            raise ConfigError(
                f"num_attention_heads={heads}, num_key_value_heads={kv_heads}, head_dim={head_dim} and "
                f"rope_theta={config['rope_theta']} make no attention"
            )
        frequencies = 1 / np.float32(config["rope_theta"]) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
        layers = config["num_hidden_layers"]
        return cls(
            config["model_type"],
            config["vocab_size"],
            config["hidden_size"],
            config["intermediate_size"],
            heads,
            kv_heads,
            head_dim,
            config["max_position_embeddings"],
            config["tie_word_embeddings"],
            config["rms_norm_eps"],
            "silu",
            head_dim**-0.5,
            (NO_WINDOW,) * layers,
            ((frequencies, 1.0),) * layers,
        )


@dataclass(frozen=True)
class _Weights:
    """By bare checkpoint names: packed matrices, and vectors as float32 or None where there is no such tensor."""

    matrix: Callable[[str, tuple[int, int]], Packed]
    vector: Callable[[str, int], Floats | None]


def _build(shape: _Shape, weights: _Weights, requantized: list[str]) -> Plan:
    """The steps of every layer. Buffers: x the residual stream, qkv, mixed heads, gate and up, and what Gemma norms.

    What goes into attention and the head has columns that dominate theirs (Dettmers et al. 2022, arXiv:2208.07339), so
    those two keep the rest of their rounding; for the other matrices it changed SmolLM2's perplexity by under 0.03%.
    """
    C, D, F = shape.hidden, shape.head_dim, shape.inner
    H, K = shape.heads, shape.kv_heads
    X, QKV, MIXED, INNER, ADDED = range(5)
    gemma = shape.model_type == "gemma3_text"

    def norm(name: str, size: int = C) -> Norm:
        weight = weights.vector(f"{name}.weight", size)
        if weight is None:
            raise ModelFileError(f"tensor {name}.weight is missing")
        return Norm(weight, shape.eps)

    def linear(
        source: int,
        target: int,
        names: dict[str, int],
        cols: int,
        before: Norm | str | None = None,
        add: bool = False,
        fine: bool = False,
    ) -> Linear:
        parts = tuple(weights.matrix(f"{name}.weight", (rows, cols)) for name, rows in names.items())
        biases = [weights.vector(f"{name}.bias", rows) for name, rows in names.items()]
        bias = None
        if any(each is not None for each in biases):
            zeros = (np.zeros(rows, np.float32) for rows in names.values())
            bias = np.concatenate([zero if each is None else each for each, zero in zip(biases, zeros, strict=True)])
        return Linear(source, target, parts, bias, add, before, fine, tuple(names))

    embedding = weights.matrix("embed_tokens.weight", (shape.vocab, C))
    steps: list[Step] = [Embed(X, embedding, shape.embedding_scale)]
    for layer, (window, (frequencies, factor)) in enumerate(zip(shape.windows, shape.ropes, strict=True)):
        at = f"layers.{layer}."
        qkv = {f"{at}self_attn.{part}_proj": rows * D for part, rows in (("q", H), ("k", K), ("v", K))}
        gates = {f"{at}mlp.gate_proj": F, f"{at}mlp.up_proj": F}
        out, down = {f"{at}self_attn.o_proj": C}, {f"{at}mlp.down_proj": C}
        before_mlp = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
        steps += [
            linear(X, QKV, qkv, C, norm(f"{at}input_layernorm"), fine=True),
            Attend(
                QKV,
                MIXED,
                layer,
                H,
                shape.attention_scale,
                frequencies,
                factor,
                window,
                weights.vector(f"{at}self_attn.q_norm.weight", D),
                weights.vector(f"{at}self_attn.k_norm.weight", D),
                shape.eps,
            ),
            linear(MIXED, ADDED if gemma else X, out, H * D, add=not gemma),
            *([AddNorm(ADDED, X, norm(f"{at}post_attention_layernorm"))] if gemma else []),
            linear(X, INNER, gates, C, norm(at + before_mlp)),
            linear(INNER, ADDED if gemma else X, down, F, shape.act, add=not gemma),
            *([AddNorm(ADDED, X, norm(f"{at}post_feedforward_layernorm"))] if gemma else []),
        ]
    head = embedding if shape.tied else weights.matrix("lm_head.weight", (shape.vocab, C))
    steps.append(Linear(X, LOGITS, (head,), before=norm("norm"), fine=True))
    return Plan(
        widths=(C, (H + 2 * K) * D, H * D, 2 * F, *([C] if gemma else [])),
        steps=tuple(steps),
        layers=len(shape.windows),
        kv_heads=K,
        head_dim=D,
        vocab_size=shape.vocab,
        context_length=shape.context,
        requantized=tuple(requantized),
    )


def _plan_file(path: Path) -> Plan:
    checkpoint = GGUFModel(GGUFFile(path))
    try:
        config = checkpoint.config
        if checkpoint.model_type == "gpt2":
            raise ConfigError("gpt2 has no plan")
        if checkpoint.model_type == "gemma3_text" or config["rope_scaling"]:
            from modelworks.models.llama import LlamaConfig

            shape = _Shape.of(LlamaConfig.from_hf(config))
        else:
            shape = _Shape.of_plain(config)
        return _build(shape, *_file_weights(checkpoint))
    except ModelworksError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error


def _file_weights(checkpoint: GGUFModel) -> tuple[_Weights, list[str]]:
    file = checkpoint.file
    requantized: list[str] = []
    arena = _Arena()

    def checked(bare: str, wanted: tuple[int, ...]) -> str | None:
        name = checkpoint.names.get(bare)
        if name is not None and file.tensors[name].shape != wanted:
            raise ModelFileError(f"tensor {name} is {file.tensors[name].shape}, the config asks for {wanted}")
        return name

    def vector(bare: str, size: int) -> Floats | None:
        name = checked(bare, (size,))
        if name is None:
            return None
        values, order = file.dequantize(name), checkpoint.row_order(name)
        return values if order is None else values[order]

    def matrix(bare: str, wanted: tuple[int, int]) -> Packed:
        name = checked(bare, wanted)
        if name is None:
            raise ModelFileError(f"tensor {bare} is missing")
        kind, order = file.tensors[name].type.name, checkpoint.row_order(name)
        step = _rows(wanted)
        if kind in DECODERS:

            def piece(start: int) -> Groups:
                # Read, not mapped: mapped pages would stay resident beside the packed copy.
                if order is None:
                    return decode(kind, _read(file, name, start, min(step, wanted[0] - start)), _BLOCK_BYTES[kind])
                return decode(kind, _read(file, name, 0, wanted[0])[order[start : start + step]], _BLOCK_BYTES[kind])

        else:
            requantized.append(f"{name} ({kind})")
            values = file.dequantize(name)
            values = values if order is None else values[order]

            def piece(start: int) -> Groups:
                return quantize(values[start : start + step], 8)

        return _pack_pieces(name, piece, wanted, arena)

    return _Weights(matrix, vector), requantized


_BLOCK_BYTES = {
    "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210,
}  # fmt: skip


def _read(file: GGUFFile, name: str, start: int, rows: int) -> Bytes:
    """So many packed rows of a matrix, from its row `start` on."""
    tensor = file.tensors[name]
    row_bytes = tensor.nbytes // tensor.shape[0]
    read = np.fromfile(file.path, np.uint8, rows * row_bytes, offset=tensor.offset + start * row_bytes)
    if len(read) != rows * row_bytes:
        raise ModelFileError(f"tensor {name} is cut short: the file changed while it was read")
    return read.reshape(rows, row_bytes)


def _rows(shape: tuple[int, int]) -> int:
    """How many rows make a piece: whole tiles."""
    return max(1, _PIECE // (shape[1] * TILE)) * TILE


class _Arena:
    """Memory for a plan's matrices, side by side in the order of their use.

    Decoding reads all of it for each token, at the speed of memory: numpy asks for huge pages for arrays of this size,
    and what is fetched ahead at the end of one matrix is the start of the next.
    """

    _CHUNK = 16 << 20

    def __init__(self) -> None:
        self._free: NDArray[np.uint8] = np.empty(0, np.uint8)

    def take(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """An array of bytes whose address is a multiple of 64, as the first one's is."""
        nbytes = math.prod(shape)
        if nbytes > len(self._free):
            chunk = np.empty(max(nbytes, self._CHUNK) + 64, np.uint8)
            self._free = chunk[-chunk.ctypes.data % 64 :]
        taken, self._free = self._free[:nbytes], self._free[-(-nbytes // 64) * 64 :]
        return taken.reshape(shape)


def _pack_pieces(name: str, piece: Callable[[int], Groups], shape: tuple[int, int], arena: _Arena) -> Packed:
    """Pack a matrix whose quantised rows come in pieces, by the index of the first row."""
    R, C = shape
    try:
        groups = piece(0)
        data = arena.take((-(-R // TILE), group_count(C), group_bytes(groups)))
        for start in range(0, R, _rows(shape)):
            groups = groups if start == 0 else piece(start)
            tiles = -(-len(groups.q_RC) // TILE)
            pack_into(groups, data[start // TILE : start // TILE + tiles])
    except ValueError as error:
        raise ModelFileError(f"tensor {name}: {error}") from error
    return Packed(data.reshape(-1), R, C, groups.bits, groups.low_RG is not None, groups.halves)


def _plan_model(model: LanguageModel, weights: Format) -> Plan:
    from modelworks.models.llama import Llama

    if type(model) is not Llama:  # a subclass computes something else
        raise ConfigError(f"a {type(model).__name__} has no plan")
    if weights not in ("q8", "q4"):
        raise ConfigError(f"unknown format {weights!r} for a plan's weights; there are q8 and q4")
    config, arena = model.config, _Arena()
    parameters = {re.sub(r"^model\.", "", name): value for name, value in model.named_parameters()}

    def values(bare: str, rows: slice = slice(None)) -> Floats:
        return cast(Floats, parameters[bare][rows].detach().float().cpu().numpy())

    def vector(bare: str, size: int) -> Floats | None:
        if bare not in parameters:
            return None
        # Gemma's norms hold w - 1.
        return values(bare) + np.float32(config.is_gemma and bare.endswith("norm.weight"))

    def matrix(bare: str, shape: tuple[int, int]) -> Packed:
        step, bits = _rows(shape), 8 if weights == "q8" else 4
        return _pack_pieces(bare, lambda start: quantize(values(bare, slice(start, start + step)), bits), shape, arena)

    return _build(_Shape.of(config), _Weights(matrix, vector), [])
