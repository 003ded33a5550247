"""The product with a frozen matrix against single operations of torch: values, gradients, and what it keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modelworks.adapt.product import product

SHAPES = {"x": (2, 3, 5), "w": (7, 5), "bias": (7,), "a": (4, 5), "b": (7, 4), "z": (2, 3, 5)}


def tensors(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}
    for name, tensor in made.items():
        tensor.requires_grad_(name != "w")
    return made


@pytest.mark.parametrize("names", [(), ("bias",), ("a", "b"), ("bias", "a", "b"), ("bias", "a", "b", "z")])
def test_it_is_the_composition_of_single_operations(names: tuple[str, ...]) -> None:
    made = tensors()
    x, w, bias, a, b, z = (made[name] if name in ("x", "w", *names) else None for name in SHAPES)
    assert x is not None
    assert w is not None
    found = product(x, lambda dtype: w, bias, a, b, 0.3, z)
    expected = F.linear(x, w, bias)
    if a is not None and b is not None:
        expected = expected + 0.3 * F.linear(F.linear(x if z is None else z, a), b)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    inputs = [each for each in (x, bias, a, b, z) if each is not None]
    weight = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_matrix_may_be_overwritten_between_the_passes() -> None:
    """The one given in the backward pass counts, so one that is de-quantised anew need not be kept."""
    made = tensors()
    scratch = torch.empty_like(made["w"])
    given = 0

    def matrix(dtype: torch.dtype) -> Tensor:
        nonlocal given
        given += 1
        return scratch.copy_(made["w"])

    y = product(made["x"], matrix)
    scratch.zero_()
    (dx,) = torch.autograd.grad(y.sum(), made["x"])
    torch.testing.assert_close(dx, made["w"].sum(0).expand_as(dx))
    assert given == 2


def test_only_what_gradients_need_is_kept() -> None:
    """Without an adapter nothing; with one its input and the r columns between its halves."""
    made = tensors()
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        product(made["x"], lambda dtype: made["w"])
        assert kept == []
        product(made["x"], lambda dtype: made["w"], None, made["a"], made["b"])
    assert sorted(kept) == sorted([(2, 3, 5), (4, 5), (7, 4), (6, 4)])


def test_under_autocast_it_computes_in_bfloat16() -> None:
    made = tensors(torch.float32)
    asked: list[torch.dtype] = []

    def matrix(dtype: torch.dtype) -> Tensor:
        asked.append(dtype)
        return made["w"].to(dtype)

    with torch.autocast("cpu", torch.bfloat16):
        y = product(made["x"], matrix, made["bias"], made["a"], made["b"], 0.5)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert asked == [torch.bfloat16] * 2
    assert all(made[name].grad.dtype == torch.float32 for name in ("x", "bias", "a", "b"))
    exact = F.linear(made["x"], made["w"], made["bias"]) + 0.5 * made["x"] @ made["a"].T @ made["b"].T
    torch.testing.assert_close(y.float(), exact, rtol=0.03, atol=0.1)
