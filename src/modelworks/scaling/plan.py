"""What training a model takes: parameters, FLOPs, memory, time.

Parameters are counted on the module itself, built without memory. FLOPs are of the model, not of the machine: neither
what is computed again under checkpointing counts nor the masked half of attention (Chowdhery et al. 2022,
arXiv:2204.02311, appendix B, counts that half).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelworks.adapt.packed import PackedLinear
from modelworks.core.errors import ConfigError
from modelworks.models.base import LanguageModel
from modelworks.models.load import outline
from modelworks.models.registry import family_of

OPTIMIZER_BYTES = {"adamw": 8.0, "muon": 4.0, "adamw8bit": 2.0 + 8 / 256, "sgd": 0.0}
"""Of state a parameter: two fp32 moments; one; two 8-bit moments with a scale for each 256; none."""


@dataclass(frozen=True)
class Size:
    """Parameters of a model. Tied weights count once."""

    total: int
    embeddings: int
    """Of vocabulary and positions, an untied head included: what Kaplan's N leaves out."""
    active: int
    """That a token meets; fewer than `total` in a mixture of experts."""
    multiplied: int
    """Of matrices that a token is multiplied with: the head, not embeddings that are only looked up. The N of 6N."""

    @property
    def without_embeddings(self) -> int:
        return self.total - self.embeddings


def build(config: Mapping[str, Any]) -> LanguageModel:
    """The language model of a `config.json`, on the meta device. Raises ConfigError or ModelFileError for another."""
    family = family_of(config)
    model = outline(family, family.config.from_hf(config))
    if not isinstance(model, LanguageModel):
        raise ConfigError(f"a {type(model).__name__} is no causal language model, and plans are for those")
    return model


def size_of(model: LanguageModel) -> Size:
    """Parameters of a model on any device, the meta device included."""
    head = model.output_embedding()
    tables = {id(module.weight): module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    embeddings = sum(table.numel() for table in tables.values()) + (0 if id(head) in tables else head.numel())
    idle = sum(parameter.numel() * (1 - share) for parameter, share in _shares(model))
    total = sum(parameter.numel() for parameter in model.parameters())
    matrices = sum(
        parameter.numel() * share
        for parameter, share in _shares(model)
        if parameter.dim() >= 2 and (id(parameter) not in tables or parameter is head)
    )
    return Size(total, embeddings, round(total - idle), round(matrices))


def _shares(model: nn.Module) -> Iterator[tuple[nn.Parameter, float]]:
    """Each parameter with the part of it that a token meets: of stacked experts those that it is sent to."""
    routed = getattr(getattr(model, "config", None), "num_experts_per_tok", None)
    for parameter in model.parameters():
        yield parameter, routed / len(parameter) if routed and parameter.dim() == 3 else 1.0


def flops_per_token(model: nn.Module, context: int) -> float:
    """Forward and backward: 6 for each weight that a token is multiplied with, and 12 for width and key that it sees.

    4 for a weight that is not trained. The width is heads times head size, in each layer of a language model; for
    others attention is left out. In causal attention a token sees half the context on average; a sliding layer sees no
    more than its window. Forward alone is a third, where all is trained.
    """
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if isinstance(model, LanguageModel):
        looked_up.discard(id(model.output_embedding()))
    total = sum(
        parameter.numel() * share * (6 if parameter.requires_grad else 4)
        for parameter, share in _shares(model)
        if parameter.dim() >= 2 and id(parameter) not in looked_up
    )
    total += sum(
        4 * module.in_features * module.out_features for module in model.modules() if isinstance(module, PackedLinear)
    )
    if not isinstance(model, LanguageModel):
        return float(total)
    config = model.config
    width = getattr(config, "n_embd", None) or config.num_attention_heads * config.head_dim
    kinds: Iterable[str] = getattr(config, "layer_types", None) or ("full_attention",) * config.num_hidden_layers
    window = min(getattr(config, "sliding_window", None) or context, context)
    seen = {"full_attention": context / 2, "sliding_attention": window * (1 - window / (2 * max(context, 1)))}
    return float(total + sum(12 * width * seen[kind] for kind in kinds))


@dataclass(frozen=True)
class Memory:
    """Bytes. `activations` is None where a model's routing decides their size."""

    weights: float
    gradients: float
    optimizer: float
    activations: float | None
    checkpointed: float | None
    """Activations with checkpointing: each layer's input, and one layer at a time in full."""
    logits: float
    """Of all logits in float32 and their gradient, where a loss holds them whole; a chunked loss does without."""


def memory_of(
    model: LanguageModel,
    batch: int,
    context: int,
    *,
    optimizer: str = "adamw",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Memory:
    """What training holds: float32 weights and gradients, the optimiser's state, and what autograd keeps of a batch.

    Activations are counted by running the model on tensors without data, in `dtype` by autocast. Raises ConfigError for
    an unknown optimiser and for a context beyond the model's.
    """
    if optimizer not in OPTIMIZER_BYTES:
        raise ConfigError(f"optimizer {optimizer!r} is unknown; there are {', '.join(OPTIMIZER_BYTES)}")
    if context > model.context_length:
        raise ConfigError(f"a context of {context} tokens is beyond the model's {model.context_length}")
    size = size_of(model)
    head = model.output_embedding()
    layers = model.config.num_hidden_layers
    kept = _activations(model, batch, context, dtype)
    entries = batch * context * head.shape[1] * (4.0 if dtype == "float32" else 2.0)
    return Memory(
        weights=4.0 * size.total,
        gradients=4.0 * size.total,
        optimizer=_optimizer_bytes(model, optimizer),
        activations=kept,
        checkpointed=None if kept is None else min(kept, layers * entries + kept / layers),
        logits=2 * 4.0 * batch * context * head.shape[0],
    )


def _optimizer_bytes(model: LanguageModel, optimizer: str) -> float:
    """Muon keeps one moment of each hidden matrix; embeddings, head and vectors have AdamW's two."""
    if optimizer != "muon":
        return OPTIMIZER_BYTES[optimizer] * size_of(model).total
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    outer = {id(model.output_embedding()), *tables}
    return sum(
        OPTIMIZER_BYTES["muon" if parameter.dim() >= 2 and id(parameter) not in outer else "adamw"] * parameter.numel()
        for parameter in model.parameters()
    )


def _activations(model: LanguageModel, batch: int, context: int, dtype: str) -> float | None:
    """Bytes of the storages that autograd saves for the backward pass, up to the last hidden states."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class AnyValue(TorchDispatchMode):
        """A number that a check reads out of a tensor without data is 0."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                return 0
            return func(*args, **(kwargs or {}))

    kept: dict[int, Tensor] = {}
    family_config = model.config

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
    try:
        with FakeTensorMode(), AnyValue():
            # On "cpu", since attention on the meta device is not the fused kernel that training runs.
            with torch.device("cpu"):
                fake = type(model)(family_config).train()
            ids_BT = torch.zeros(batch, context, dtype=torch.long)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
                fake(ids_BT, readout=lambda x_BTC, w_VC: x_BTC)
            weights = {parameter.untyped_storage()._cdata for parameter in fake.parameters()}
            return float(sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights))
    except (DataDependentOutputException, DynamicOutputShapeException):
        return None
