from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from modelworks.core.errors import ConfigError
from modelworks.models.blocks.mlp import ACTIVATIONS, GatedMLP, activation


def test_it_is_swiglu():
    mlp = GatedMLP(8, 20, act="silu", bias=True)
    x = torch.randn(3, 8)
    gate, up = (F.linear(x, layer.weight, layer.bias) for layer in (mlp.gate_proj, mlp.up_proj))
    expected = F.linear(gate * torch.sigmoid(gate) * up, mlp.down_proj.weight, mlp.down_proj.bias)
    torch.testing.assert_close(mlp(x), expected)


def test_activations_equal_transformers():
    from transformers.activations import ACT2FN

    x = torch.linspace(-5, 5, 101)
    for name in ACTIVATIONS:
        torch.testing.assert_close(activation(name)(x), ACT2FN[name](x), rtol=1e-6, atol=1e-6)


def test_an_unknown_activation_is_named():
    with pytest.raises(ConfigError, match=r"'swish9'.*silu"):
        activation("swish9")
