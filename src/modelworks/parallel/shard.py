"""A model over the processes that torchrun started: its parameters split among them (FSDP2), or whole on each (DDP).

Both are `fully_shard` (Zhao et al. 2023, arXiv:2304.11277): whole on each is a split among one, repeated on all. In
either case gradients are averaged over ranks, and parameters, gradients and states of optimisers are `DTensor`s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from modelworks.parallel.ranks import wait_for_ranks, world_size

Mode = Literal["ddp", "fsdp"]


@contextmanager
def joined() -> Iterator[None]:
    """Within it this process is one of those that torchrun started, if it did."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        wait_for_ranks()  # else one may take down what another still speaks through, which aborts (pytorch#179291)
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module, layers: Sequence[nn.Module], mode: Mode) -> None:
    """Spread a model, each of its layers gathered by itself, over all processes, for good; every rank must ask."""
    kind = next(model.parameters()).device.type
    if mode == "fsdp":
        mesh = init_device_mesh(kind, (world_size(),), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(kind, (world_size(), 1), mesh_dim_names=("replicate", "shard"))
    for module in (*layers, model):
        fully_shard(module, mesh=mesh)


def whole(value: Any) -> Any:
    """A tensor, or a state with each of its tensors, whole; every rank must ask."""
    if isinstance(value, DTensor):
        return value.full_tensor().detach()
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is: split as that is, or itself."""
    if isinstance(like, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value


def copy_state(into: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into a model's state, which may be spread."""
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(spread(state[name], tensor))


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from an optimiser's whole state, its moments split as their parameters are."""
    optimizer.load_state_dict(dict(state))
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                held[name] = spread(value, parameter)
