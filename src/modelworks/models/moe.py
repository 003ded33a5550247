"""Mixture-of-experts decoders: Llama's layers, most of them with experts in the place of the perceptron.

`model_type` says which family it is:

    mixtral     every layer has experts, weights of the chosen ones sum to 1 (arXiv:2401.04088)
    qwen2_moe   biases on q, k and v; shared experts behind a gate (arXiv:2407.10671)
    qwen3_moe   RMSNorm on each head of q and k, no shared experts (arXiv:2505.09388)
    dots1       that attention with DeepSeek-V3's experts: sigmoid scores, a bias for the choice that balances without
                a loss, shared experts without a gate, dense first layers (arXiv:2506.05767)

In memory the experts' matrices are stacked; checkpoints hold each expert's own, under the names of its family, and
transformers loads what `save` writes. There is no native plan: the torch runner serves these models.

**Balance.** What routers decide reaches a loss through `recording(model)`: around one call `model(...)` it notes each
layer's routing with its graph, also where activations are checkpointed (recomputing happens later, when nobody
records). `objectives.balance.Balanced` makes the balance and z-losses of it around any other objective.

Shapes: B batch, S tokens, C hidden size, E experts, k experts a token, F an expert's inner size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from modelworks.core.errors import ConfigError
from modelworks.models.blocks.attention import KVCache
from modelworks.models.blocks.experts import Call, Experts, MixtureMLP, Router
from modelworks.models.blocks.mlp import GatedMLP
from modelworks.models.config import MAX_LAYERS, check_flags, check_numbers, check_sizes
from modelworks.models.llama import FULL, SLIDING, Llama, LlamaConfig

ARCHITECTURES = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "dots1": "Dots1ForCausalLM",
}

# What a config.json may leave out, because it is Hugging Face's default for the type.
_QWEN = {"max_position_embeddings": 32_768, "sliding_window": 4096, "norm_topk_prob": False, "decoder_sparse_step": 1}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mixtral": {
        "max_position_embeddings": 131_072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen2_moe": {
        **_QWEN,
        "num_key_value_heads": 16,
        "max_window_layers": 28,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    "qwen3_moe": {
        **_QWEN,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "dots1": {
        "max_position_embeddings": 2048,
        "num_key_value_heads": 32,
        "moe_intermediate_size": 1408,
        "sliding_window": 4096,
        "max_window_layers": 62,
        "norm_topk_prob": False,
        "first_k_dense_replace": 0,
        "routed_scaling_factor": 1.0,
    },
}
_UNSUPPORTED = {"router_jitter_noise": (0, None), "qkv_bias": (True, None), "n_group": (1, None)}
_EXPERTS = {
    "mixtral": "num_local_experts",
    "qwen2_moe": "num_experts",
    "qwen3_moe": "num_experts",
    "dots1": "n_routed_experts",
}
"""What each calls the number of experts."""

# Parts of a parameter's name, as some checkpoints spell them and as ours are called.
_MIXTRAL_NAMES = (
    (".block_sparse_moe.", ".mlp."),
    (".w1.", ".gate_proj."),
    (".w3.", ".up_proj."),
    (".w2.", ".down_proj."),
)
_DOTS1_NAMES = ((".shared_experts.", ".shared_expert."),)
RENAMED = (*_MIXTRAL_NAMES, *_DOTS1_NAMES)


@dataclass(frozen=True, kw_only=True)
class MoEConfig(LlamaConfig):
    """The fields of `LlamaConfig` and those of the experts. Raises ConfigError for a combination that is no model."""

    architectures: ClassVar[Mapping[str, str]] = ARCHITECTURES
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = _DEFAULTS

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int | None = None
    """The inner size of all shared experts together; None is without."""
    norm_topk_prob: bool = True
    """Whether the weights of the chosen experts sum to 1."""
    routed_scaling_factor: float = 1.0
    dense_layers: tuple[int, ...] = ()
    """Layers with a perceptron of `intermediate_size` and no experts."""
    router_aux_loss_coef: float = 0.001
    """What the authors weighed the balance loss with; kept for whoever goes on training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(vars(self), ("num_experts", "num_experts_per_tok", "moe_intermediate_size"))
        check_numbers(vars(self), ("routed_scaling_factor", "router_aux_loss_coef"))
        check_flags(vars(self), ["norm_topk_prob"])
        if self.num_experts_per_tok > self.num_experts:
            raise ConfigError(f"num_experts_per_tok={self.num_experts_per_tok} is more than the {self.num_experts}")
        if self.has_shared != (self.shared_expert_intermediate_size is not None):
            raise ConfigError(f"{self.model_type} has {'' if self.has_shared else 'no '}shared experts")
        if self.has_shared:
            check_sizes(vars(self), ["shared_expert_intermediate_size"])
        for layer in self.dense_layers:
            if type(layer) is not int or not 0 <= layer < self.num_hidden_layers:
                raise ConfigError(
                    f"there is no layer {layer!r} to be dense; num_hidden_layers={self.num_hidden_layers}"
                )

    @property
    def qk_norm(self) -> bool:
        return self.model_type in ("qwen3_moe", "dots1")

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.model_type == "qwen2_moe"

    @property
    def has_shared(self) -> bool:
        return self.model_type in ("qwen2_moe", "dots1")

    @property
    def balances_by_bias(self) -> bool:
        """Whether routers have a bias for the choice, for balancing without a loss."""
        return self.model_type == "dots1"

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read a `config.json` as transformers 4 or 5 writes it.

        Raises ConfigError where something is missing or asks for what is not implemented.
        """
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in _DEFAULTS:
            raise ConfigError(f"unknown model_type {kind!r}; mixtures of experts are {', '.join(_DEFAULTS)}")
        for name, known in _UNSUPPORTED.items():
            if config.get(name) not in known:
                raise ConfigError(f"{kind} with {name}={config[name]} is not supported")
        read = {**_DEFAULTS[kind], **config}
        # transformers 5 also writes an alias of its own.
        read["num_experts"] = config.get("num_local_experts") or read.get(_EXPERTS[kind])
        check_sizes(read, ["num_hidden_layers"], most=MAX_LAYERS)
        if kind == "mixtral":
            read |= {"moe_intermediate_size": read.get("intermediate_size"), "norm_topk_prob": True}
        if kind == "dots1":
            check_sizes(read, ["n_shared_experts", "moe_intermediate_size"])
            read["shared_expert_intermediate_size"] = read["n_shared_experts"] * read["moe_intermediate_size"]
        elif kind in ("qwen2_moe", "qwen3_moe") and not read.get("use_sliding_window"):
            read["sliding_window"] = None
        return super().from_hf({**read, "layer_types": _layer_types(read), "dense_layers": _dense_layers(read)})

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers reads back as the same model."""
        written, kind = super().to_hf(), self.model_type
        dense = list(written.pop("dense_layers"))
        written[_EXPERTS[kind]] = written.pop("num_experts")
        inner, shared = written.pop("moe_intermediate_size"), written.pop("shared_expert_intermediate_size")
        if kind != "dots1":
            del written["routed_scaling_factor"]
        if kind in ("mixtral", "qwen3_moe"):
            del written["layer_types"]
        if kind == "mixtral":
            del written["norm_topk_prob"]
            return {**written, "intermediate_size": inner}
        if kind == "dots1":
            assert dense == list(range(len(dense)))
            shared_experts = {"n_shared_experts": shared // inner, "n_group": 1, "topk_group": 1}
            return {**written, "moe_intermediate_size": inner, **shared_experts, "first_k_dense_replace": len(dense)}
        if kind == "qwen2_moe":
            written["shared_expert_intermediate_size"] = shared
        written |= {"moe_intermediate_size": inner, "mlp_only_layers": dense, "decoder_sparse_step": 1}
        return {**written, "use_sliding_window": self.sliding_window is not None}


def _layer_types(config: Mapping[str, Any]) -> Any:
    """Full or sliding, layer by layer, by each type's own rule where the config does not list them."""
    kind, layers = config["model_type"], range(config["num_hidden_layers"])
    if config.get("sliding_window") is None:
        return [FULL for _ in layers]
    if kind in ("mixtral", "qwen3_moe"):
        return [SLIDING for _ in layers]
    if listed := config.get("layer_types"):
        return listed
    check_numbers(config, ["max_window_layers"])
    edge = config["max_window_layers"]
    if kind == "dots1":
        return [SLIDING if layer >= edge else FULL for layer in layers]
    return [SLIDING if layer < edge and layer % 2 == 0 else FULL for layer in layers]


def _dense_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    if config["model_type"] == "mixtral":
        return ()
    if config["model_type"] == "dots1":
        check_numbers(config, ["first_k_dense_replace"])
        return tuple(range(int(config["first_k_dense_replace"])))
    check_sizes(config, ["decoder_sparse_step"])
    only = config.get("mlp_only_layers") or []
    if not isinstance(only, list | tuple):
        raise ConfigError(f"mlp_only_layers must be a list, got {only!r}")
    step, layers = config["decoder_sparse_step"], range(config["num_hidden_layers"])
    return tuple(layer for layer in layers if layer in only or (layer + 1) % step)


class MoE(Llama):
    """A language model of Llama's layers with experts; see `LanguageModel.forward`."""

    config: MoEConfig

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.calls: list[Call] | None = None

    def feed_forward(self, layer: int) -> nn.Module:
        config = self.config
        if layer in config.dense_layers:
            return super().feed_forward(layer)
        width, shared = config.hidden_size, config.shared_expert_intermediate_size
        return MixtureMLP(
            Router(
                width,
                config.num_experts,
                config.num_experts_per_tok,
                score="sigmoid" if config.model_type == "dots1" else "softmax",
                normalise=config.norm_topk_prob,
                scale=config.routed_scaling_factor,
                bias=config.balances_by_bias,
            ),
            Experts(width, config.moe_intermediate_size, config.num_experts, act=config.hidden_act),
            None if shared is None else GatedMLP(width, shared, act=config.hidden_act),
            gated=config.model_type == "qwen2_moe",
            hidden_size=width,
        )

    def _initialise(self, module: nn.Module) -> None:
        super()._initialise(module)
        if isinstance(module, Router | Experts):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=self.config.initializer_range)

    def hidden_states(
        self, input_ids_BT: Tensor, positions_BT: Tensor, attention_mask_BS: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        if self.calls is not None:
            self.calls.append(Call(len(input_ids_BT), attention_mask_BS))
        return super().hidden_states(input_ids_BT, positions_BT, attention_mask_BS, cache)


@contextmanager
def recording(model: nn.Module) -> Iterator[list[Call]]:
    """Note what the routers of a model decide, call by call; `model` may be wrapped (DDP, FSDP, compiled).

    What is noted has its graph, so that a loss of it trains the routers. Calls end with the block: a layer that is
    computed again in the backward pass is not noted twice. Raises ValueError for a model without experts.
    """
    found = [module for module in model.modules() if isinstance(module, MoE | Router)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no experts whose routing could be recorded")
    calls: list[Call] = []
    for module in found:
        module.calls = calls
    try:
        yield calls
    finally:
        for module in found:
            module.calls = None


def split(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Stacked experts as checkpoints hold them: each expert's gate, up and down matrix; anything else as it is."""
    layer, stacked, kind = name.partition(".experts.")
    if not stacked:
        yield name, tensor
        return
    for expert, matrix in enumerate(tensor.unbind()):
        at = f"{layer}.experts.{expert}"
        if kind == "down_proj":
            yield f"{at}.down_proj.weight", matrix
        else:
            gate, up = matrix.chunk(2)
            yield f"{at}.gate_proj.weight", gate
            yield f"{at}.up_proj.weight", up


def _mixtral_name(name: str) -> str:
    if ".mlp." in name:
        for theirs, ours in _MIXTRAL_NAMES:
            name = name.replace(ours, theirs)
    return name


def _dots1_name(name: str) -> str:
    for theirs, ours in _DOTS1_NAMES:
        name = name.replace(ours, theirs)
    return name


HF_NAMES = {"mixtral": _mixtral_name, "dots1": _dots1_name}
"""A parameter's name in the checkpoints of families that do not call it as we do."""
