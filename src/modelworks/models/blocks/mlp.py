"""The gated perceptron of the Llama family (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from modelworks.core.errors import ConfigError


def gelu(x: Tensor) -> Tensor:
    """GELU as it is defined (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    For each shape of a contiguous tensor in memory order torch 2.13 has oneDNN compile a kernel on CPUs, and keeps it:
    2 MB a shape, a gigabyte after some hundred texts. A transposed view takes torch's own loop, which is as exact.
    """
    return F.gelu(x.mT).mT if x.dim() >= 2 and x.device.type == "cpu" else F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, which GPT-2 and Gemma were trained with (Hendrycks and Gimpel 2016)."""
    return F.gelu(x, approximate="tanh")


# By the names that Hugging Face configs use.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": F.relu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name; raise ConfigError for an unknown one."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}; supported are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)): SwiGLU with silu, GeGLU with gelu."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, act: str, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)
        self.act = activation(act)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))
