"""Cross-entropy of a language model's head, over tokens that each count as much as their weight says.

`linear_cross_entropy` is given hidden states and the head's matrix instead of logits, and computes both gradients while
it computes the loss, a chunk of tokens at a time: no more than one chunk of logits ever stands. For 2,048 tokens of a
vocabulary of 50,000 that is 150 MB instead of the 1.2 GB of logits, log-probabilities and their gradient.

The z-loss (Chowdhery et al. 2022, arXiv:2204.02311, section 5) adds z_loss * log(Z)^2 to each token's loss, which keeps
the softmax's normaliser Z near 1.

Shapes: N tokens, n tokens of a chunk, C hidden size, V vocabulary.
"""

from __future__ import annotations

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
    (N, C), (_, width) = x_NC.shape, w_VC.shape
    if width != C or targets_N.shape != (N,) or weights_N.shape != (N,):
        shapes = [tuple(tensor.shape) for tensor in (x_NC, w_VC, targets_N, weights_N)]
        raise ValueError(f"x (N, C), w (V, C), targets (N) and weights (N) disagree: {shapes}")
    device = x_NC.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_NC.dtype
    counting = weights_N != 0
    if not counting.all():
        x_NC, targets_N, weights_N = x_NC[counting], targets_N[counting], weights_N[counting]
    return TokenLosses(
        *_LinearCrossEntropy.apply(
            x_NC, w_VC, targets_N, weights_N.float(), z_loss, chunk, dtype, torch.is_grad_enabled()
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
        (N, C), V = x_NC.shape, w_VC.shape[0]
        nll, z = (x_NC.new_zeros((), dtype=torch.float32) for _ in range(2))
        grad_x_NC = x_NC.new_empty((N, C)) if learns_x else None
        grad_w_VC = w_VC.new_zeros((V, C), dtype=torch.float32) if learns_w else None
        n = min(chunk, N)
        # Memory that is touched for the first time is slow: one buffer serves all chunks.
        buffer_nV = x_NC.new_empty((n, V), dtype=torch.float32)
        with torch.autocast(x_NC.device.type, enabled=False):
            head_VC = w_VC.to(dtype)
            for at in range(0, N, n or 1):
                part = slice(at, at + n)
                part_nC, targets_n, weights_n = x_NC[part].to(dtype), targets_N[part], weights_N[part]
                rows_n = torch.arange(len(targets_n), device=x_NC.device)
                logits_nV = part_nC @ head_VC.T
                target_logits_n = logits_nV[rows_n, targets_n].float()
                p_nV = buffer_nV[: len(rows_n)].copy_(logits_nV)
                torch.softmax(p_nV, -1, out=p_nV)
                p_target_n = p_nV[rows_n, targets_n]
                log_z_n = target_logits_n - p_target_n.log()
                if (unlikely_n := p_target_n < _TINY).any():
                    log_z_n[unlikely_n] = (part_nC[unlikely_n] @ head_VC.T).float().logsumexp(-1)
                nll += ((log_z_n - target_logits_n) * weights_n).sum()
                z += (log_z_n.square() * weights_n).sum()
                if not (learns_x or learns_w):
                    continue
                if z_loss:
                    p_nV *= (1 + 2 * z_loss * log_z_n)[:, None]
                p_nV[rows_n, targets_n] -= 1
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
