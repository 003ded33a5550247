"""Cross-entropy of a language model's head, over tokens that each count as much as their weight says.

`linear_cross_entropy` is given hidden states and the head's matrix instead of logits, and computes both gradients while
it computes the loss, a chunk of tokens at a time: no more than one chunk of logits ever stands. For 2,048 tokens of a
vocabulary of 50,000 that is 150 MB instead of the 1.2 GB of logits, log-probabilities and their gradient.
`linear_logprobs` does the same for a loss that needs each token's log-probability before it knows their weights.

The z-loss (Chowdhery et al. 2022, arXiv:2204.02311, section 5) adds z_loss * log(Z)^2 to each token's loss, which keeps
the softmax's normaliser Z near 1.

Shapes: N tokens, n tokens of a chunk, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows of logits that stand at once. Fewer make the head's gradient, a sum over chunks, slower.
CHUNK = 512

# exp(-60): a probability above it is accurate to float32's last bits, so that its logarithm tells log Z.
_TINY = 8.7e-27


class TokenLosses(NamedTuple):
    """Sums over tokens, each times its weight: scalars in float32. Only `loss` has a gradient."""

    loss: Tensor
    """nll + z_loss * z."""
    nll: Tensor
    """-log p(target)."""
    z: Tensor
    """log(Z)^2."""


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor, *, z_loss: float = 0.0) -> TokenLosses:
    """The reference, from whole logits, computed in float32."""
    logits_NV = logits_NV.float()
    log_z_N = logits_NV.logsumexp(-1)
    nll = ((log_z_N - logits_NV.gather(-1, targets_N[:, None])[:, 0]) * weights_N).sum()
    z = (log_z_N.square() * weights_N).sum()
    return TokenLosses(nll + z_loss * z, nll.detach(), z.detach())


def linear_cross_entropy(
    x_NC: Tensor, w_VC: Tensor, targets_N: Tensor, weights_N: Tensor, *, z_loss: float = 0.0, chunk: int = CHUNK
) -> TokenLosses:
    """`cross_entropy` of the logits x w', without ever holding more than `chunk` rows of them.

    The products are computed in autocast's dtype where it is on, else in that of `x_NC`; softmax, loss and the sum of
    gradients in float32. Tokens of weight 0 cost nothing, and their targets may be anything. Raises ValueError where
    shapes disagree.
    """
    _check(x_NC, w_VC, targets_N, weights_N)
    counting = weights_N != 0
    if not counting.all():
        x_NC, targets_N, weights_N = x_NC[counting], targets_N[counting], weights_N[counting]
    return TokenLosses(
        *_LinearCrossEntropy.apply(
            x_NC, w_VC, targets_N, weights_N.float(), z_loss, chunk, _dtype(x_NC), torch.is_grad_enabled()
        )
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        w_VC: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        z_loss: float,
        chunk: int,
        dtype: torch.dtype,
        learns: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        learns_x, learns_w = (learns and needed for needed in ctx.needs_input_grad[:2])
        nll, z = (x_NC.new_zeros((), dtype=torch.float32) for _ in range(2))
        grad_x_NC = torch.empty_like(x_NC) if learns_x else None
        grad_w_VC = w_VC.new_zeros(w_VC.shape, dtype=torch.float32) if learns_w else None
        with torch.autocast(x_NC.device.type, enabled=False):
            head_VC = w_VC.to(dtype)
            for part, part_nC, buffer_nV in _chunks(x_NC, head_VC, chunk):
                targets_n, weights_n = targets_N[part], weights_N[part]
                logits_nV, p_nV, target_logits_n, log_z_n = _softmax(part_nC, head_VC, targets_n, buffer_nV)
                nll += ((log_z_n - target_logits_n) * weights_n).sum()
                z += (log_z_n.square() * weights_n).sum()
                if not (learns_x or learns_w):
                    continue
                if z_loss:
                    p_nV *= (1 + 2 * z_loss * log_z_n)[:, None]
                p_nV[torch.arange(len(p_nV)), targets_n] -= 1
                d_nV = logits_nV.copy_(p_nV)  # weights are applied to the products' small sides
                if grad_x_NC is not None:
                    torch.mul(d_nV @ head_VC, weights_n[:, None], out=grad_x_NC[part])
                if grad_w_VC is not None:
                    grad_w_VC += d_nV.T @ (part_nC * weights_n[:, None]).to(dtype)
        ctx.save_for_backward(grad_x_NC, None if grad_w_VC is None else grad_w_VC.to(w_VC.dtype))
        ctx.mark_non_differentiable(nll, z)
        return nll + z_loss * z, nll, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if gradient is None else gradient * scale for gradient in ctx.saved_tensors)
        return (*gradients, *[None] * 6)


class TokenScores(NamedTuple):
    """Of each token, in float32; 0 for those that do not count."""

    logprobs_N: Tensor
    """log p(target), with a gradient."""
    entropies_N: Tensor | None
    """-sum p log p in nats, without one; where it was asked for."""


def linear_logprobs(
    x_NC: Tensor,
    w_VC: Tensor,
    targets_N: Tensor,
    counts_N: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk: int = CHUNK,
) -> TokenScores:
    """The targets' log-probabilities under softmax(x w' / temperature), for the tokens that count (`counts_N` not 0).

    Never more than `chunk` rows of logits stand. Where only `x_NC` learns (adapters under a frozen head), its gradient
    is computed with the values; a head that learns needs the products anew in the backward pass. Dtypes are those of
    `linear_cross_entropy`. Raises ValueError where shapes disagree.
    """
    _check(x_NC, w_VC, targets_N, counts_N)
    counting = counts_N != 0
    logprobs_n, entropies_n = _LinearLogprobs.apply(
        x_NC[counting], w_VC, targets_N[counting], temperature, entropy, chunk, _dtype(x_NC), torch.is_grad_enabled()
    )
    return TokenScores(_spread(logprobs_n, counting), _spread(entropies_n, counting) if entropy else None)


def _spread(values_n: Tensor, counting_N: Tensor) -> Tensor:
    return values_n.new_zeros(len(counting_N)).masked_scatter(counting_N, values_n)


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        w_VC: Tensor,
        targets_N: Tensor,
        temperature: float,
        entropy: bool,
        chunk: int,
        dtype: torch.dtype,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        learns_x, learns_w = (learns and needed for needed in ctx.needs_input_grad[:2])
        logprobs_N, entropies_N = (x_NC.new_empty(len(x_NC), dtype=torch.float32) for _ in range(2))
        slopes_NC = torch.empty_like(x_NC) if learns_x and not learns_w else None
        with torch.autocast(x_NC.device.type, enabled=False):
            head_VC = w_VC.to(dtype)
            for part, part_nC, buffer_nV in _chunks(x_NC, head_VC, chunk):
                targets_n = targets_N[part]
                logits_nV, p_nV, target_logits_n, log_z_n = _softmax(
                    part_nC, head_VC, targets_n, buffer_nV, temperature
                )
                logprobs_N[part] = target_logits_n - log_z_n
                if entropy:
                    entropies_N[part] = log_z_n - torch.einsum("nv,nv->n", p_nV, logits_nV.float()) / temperature
                if slopes_NC is not None:
                    torch.mul(_slope(p_nV, targets_n, logits_nV) @ head_VC, 1 / temperature, out=slopes_NC[part])
        ctx.temperature, ctx.chunk, ctx.dtype = temperature, chunk, dtype
        ctx.save_for_backward(slopes_NC, *((x_NC, w_VC, targets_N) if learns_w else ()))
        ctx.mark_non_differentiable(entropies_N)
        return logprobs_N, entropies_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scales_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if (slopes_NC := ctx.saved_tensors[0]) is not None:
            return (slopes_NC * scales_N[:, None].to(slopes_NC.dtype), *[None] * 7)
        x_NC, w_VC, targets_N = ctx.saved_tensors[1:]
        grad_x_NC = torch.empty_like(x_NC) if ctx.needs_input_grad[0] else None
        grad_w_VC = w_VC.new_zeros(w_VC.shape, dtype=torch.float32)
        scales_N = scales_N / ctx.temperature
        with torch.autocast(x_NC.device.type, enabled=False):
            head_VC = w_VC.to(ctx.dtype)
            for part, part_nC, buffer_nV in _chunks(x_NC, head_VC, ctx.chunk):
                logits_nV, p_nV, _, _ = _softmax(part_nC, head_VC, targets_N[part], buffer_nV, ctx.temperature)
                d_nV = _slope(p_nV, targets_N[part], logits_nV)
                if grad_x_NC is not None:
                    torch.mul(d_nV @ head_VC, scales_N[part, None], out=grad_x_NC[part])
                grad_w_VC += d_nV.T @ (part_nC * scales_N[part, None]).to(ctx.dtype)
        return (grad_x_NC, grad_w_VC.to(w_VC.dtype), *[None] * 6)


# --- what both have in common -----------------------------------------------------------------------------------------


def _check(x_NC: Tensor, w_VC: Tensor, *others_N: Tensor) -> None:
    if x_NC.shape[1:] != w_VC.shape[1:] or any(other.shape != x_NC.shape[:1] for other in others_N):
        shapes = [tuple(tensor.shape) for tensor in (x_NC, w_VC, *others_N)]
        raise ValueError(f"x (N, C), w (V, C), targets (N) and what each counts (N) disagree: {shapes}")


def _dtype(x_NC: Tensor) -> torch.dtype:
    device = x_NC.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_NC.dtype


def _chunks(x_NC: Tensor, head_VC: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Which rows, the rows in the head's dtype, and room for their softmax."""
    # Memory that is touched for the first time is slow: one buffer serves all chunks.
    buffer_nV = x_NC.new_empty((min(chunk, len(x_NC)), len(head_VC)), dtype=torch.float32)
    for at in range(0, len(x_NC), chunk):
        part_nC = x_NC[at : at + chunk].to(head_VC.dtype)
        yield slice(at, at + chunk), part_nC, buffer_nV[: len(part_nC)]


def _softmax(
    part_nC: Tensor, head_VC: Tensor, targets_n: Tensor, p_nV: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of a chunk, their softmax at the temperature (in `p_nV`), the target's logit over it, and log Z."""
    rows_n = torch.arange(len(targets_n), device=part_nC.device)
    logits_nV = part_nC @ head_VC.T
    p_nV.copy_(logits_nV)
    if temperature != 1:
        p_nV /= temperature
    target_logits_n = p_nV[rows_n, targets_n]
    torch.softmax(p_nV, -1, out=p_nV)
    p_target_n = p_nV[rows_n, targets_n]
    log_z_n = target_logits_n - p_target_n.log()
    if (unlikely_n := p_target_n < _TINY).any():
        log_z_n[unlikely_n] = (logits_nV[unlikely_n].float() / temperature).logsumexp(-1)
    return logits_nV, p_nV, target_logits_n, log_z_n


def _slope(p_nV: Tensor, targets_n: Tensor, logits_nV: Tensor) -> Tensor:
    """The gradient of log p(target) by the logits, at temperature 1; it overwrites both, and has the logits' dtype."""
    p_nV.neg_()
    p_nV[torch.arange(len(p_nV), device=p_nV.device), targets_n] += 1
    return logits_nV.copy_(p_nV)
