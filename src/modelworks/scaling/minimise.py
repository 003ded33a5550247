"""Least-Huber fits of curves whose logarithm is smooth: many starts and many resamples at once, by damped Newton.

A first-order method creeps along the valley in which A and alpha trade against each other, and reports success where it
stands: L-BFGS started from Hoffmann's constants ends at .00116 of the .00102 that can be had. The curves here have
exact second derivatives, so every start walks to where the gradient is nothing.

Shapes: S starts or resamples, R rows, P parameters, K terms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEPS = 200
_TOLERANCE = 1e-10  # of a Newton step, in the parameters' own units: all are logarithms or exponents
_GAIN = 1e-13  # of the objective, by a step: where a parameter runs off to where it does nothing
_RIDGE = 1e-12  # of a metric's trace: a parameter that does nothing leaves it singular
_CHUNK = 2_000_000  # numbers in the largest array: starts are worked off in portions of that size


class Curve(Protocol):
    """The logarithm of a law over fixed rows, as a function of its parameters."""

    def __call__(self, theta_SP: Array) -> tuple[Array, Array, Callable[[Array], Array]]:
        """Values f_SR, gradients g_SRP, and a function from c_SR to sum_R c f'' as h_SPP."""
        ...


class SumOfPowers:
    """log sum_k exp(x_k . theta + offset_k): constants and power laws that add up, each linear in the parameters."""

    def __init__(self, x_KRP: Array, offset_KR: Array | None = None) -> None:
        self.x_KRP = x_KRP
        self.offset_KR = np.zeros(x_KRP.shape[:2]) if offset_KR is None else offset_KR

    def __call__(self, theta_SP: Array) -> tuple[Array, Array, Callable[[Array], Array]]:
        z_KSR = np.einsum("krp,sp->ksr", self.x_KRP, theta_SP) + self.offset_KR[:, None]
        top_SR = z_KSR.max(0)
        p_KSR = np.exp(z_KSR - top_SR)
        total_SR = p_KSR.sum(0)
        p_KSR /= total_SR
        g_SRP = np.einsum("ksr,krp->srp", p_KSR, self.x_KRP)

        def curvature(c_SR: Array) -> Array:
            spread_SPP = np.einsum("ksr,krp,krq->spq", p_KSR * c_SR, self.x_KRP, self.x_KRP, optimize=True)
            return spread_SPP - (g_SRP * c_SR[..., None]).mT @ g_SRP

        return top_SR + np.log(total_SR), g_SRP, curvature


class PowerOfSum:
    """theta_0 times a SumOfPowers of the other parameters: Kaplan's form, where size and data share an exponent."""

    def __init__(self, x_KRP: Array, offset_KR: Array) -> None:
        self.inner = SumOfPowers(x_KRP, offset_KR)

    def __call__(self, theta_SP: Array) -> tuple[Array, Array, Callable[[Array], Array]]:
        outer_S = theta_SP[:, :1]
        f_SR, g_SRP, inner = self.inner(theta_SP[:, 1:])

        def curvature(c_SR: Array) -> Array:
            cross_SP = np.einsum("sr,srp->sp", c_SR, g_SRP)
            h_SPP = np.zeros((len(theta_SP), theta_SP.shape[1], theta_SP.shape[1]))
            h_SPP[:, 0, 1:] = h_SPP[:, 1:, 0] = cross_SP
            h_SPP[:, 1:, 1:] = outer_S[..., None] * inner(c_SR)
            return h_SPP

        return outer_S * f_SR, np.concatenate([f_SR[..., None], outer_S[..., None] * g_SRP], -1), curvature


class Minima(NamedTuple):
    theta_SP: Array
    objective_S: Array
    settled_S: NDArray[np.bool_]
    """Whether Newton's step vanished, rather than the number of steps running out."""


def minimise(
    curve: Curve, log_loss_R: Array, starts_SP: Array, *, delta: float, weight_SR: Array | None = None
) -> Minima:
    """From every start, the minimum of sum_R weight huber(curve - log_loss, delta) (Hoffmann et al. 2022, eq. 3).

    `weight_SR` counts how often a resample has each row; all rows once where it is None.
    """
    S, P = starts_SP.shape
    R = len(log_loss_R)
    size = max(1, _CHUNK // (R * P))
    parts = [
        _newton(
            curve,
            log_loss_R,
            starts_SP[at : at + size],
            None if weight_SR is None else weight_SR[at : at + size],
            delta,
        )
        for at in range(0, S, size)
    ]
    return Minima(*(np.concatenate(column) for column in zip(*parts)))


def _newton(curve: Curve, y_R: Array, starts_SP: Array, weight_SR: Array | None, delta: float) -> Minima:
    theta_SP = np.array(starts_SP, dtype=np.float64)
    weight_SR = np.ones((1, len(y_R))) if weight_SR is None else weight_SR
    weight_SR = np.broadcast_to(weight_SR, (len(theta_SP), len(y_R)))
    objective_S = _objective(curve(theta_SP)[0] - y_R, weight_SR, delta)
    damping_S = np.ones(len(theta_SP))
    active_S = np.isfinite(objective_S)
    for _ in range(_STEPS):
        (live,) = np.nonzero(active_S)
        if not len(live):
            break
        w = weight_SR[live]
        f_SR, g_SRP, curvature = curve(theta_SP[live])
        r_SR = f_SR - y_R
        slope_SR = w * np.clip(r_SR, -delta, delta)
        gradient_SP = np.einsum("sr,srp->sp", slope_SR, g_SRP)
        h_SPP = (g_SRP * (w * (np.abs(r_SR) <= delta))[..., None]).mT @ g_SRP + curvature(slope_SR)
        # Far out the Huber loss is linear and has no curvature, so steps are measured by that of the parabola which
        # touches it from above (reweighted least squares): alone, damped to 1, it never overshoots a linear curve.
        m_SPP = (g_SRP * (w * delta / np.maximum(np.abs(r_SR), delta))[..., None]).mT @ g_SRP
        m_SPP += _RIDGE * np.trace(m_SPP, axis1=1, axis2=2)[:, None, None] * np.eye(m_SPP.shape[-1])
        down_SPP = np.linalg.inv(np.linalg.cholesky(m_SPP))
        value_SP, vector_SPP = np.linalg.eigh(down_SPP @ h_SPP @ down_SPP.mT)
        vector_SPP = down_SPP.mT @ vector_SPP
        # Down every direction, also where the objective bends away: the size of a curvature is its scale, its sign
        # only says that this is no minimum.
        along_SP = np.einsum("spq,sp->sq", vector_SPP, gradient_SP) / (np.abs(value_SP) + damping_S[live, None])
        step_SP = -np.einsum("spq,sq->sp", vector_SPP, along_SP)
        tried_SP = theta_SP[live] + step_SP
        tried_S = _objective(curve(tried_SP)[0] - y_R, w, delta)
        better_S = tried_S < objective_S[live]
        damping_S[live] = np.where(better_S, damping_S[live] / 5, damping_S[live] * 4)
        gain_S = (objective_S[live] - tried_S) / objective_S[live]
        won = live[better_S]
        theta_SP[won], objective_S[won] = tried_SP[better_S], tried_S[better_S]
        small_S = (np.abs(step_SP).max(-1) < _TOLERANCE) | (better_S & (gain_S < _GAIN))
        active_S[live[small_S]] = False
    return Minima(theta_SP, objective_S, ~active_S & np.isfinite(objective_S))


def _objective(r_SR: Array, weight_SR: Array, delta: float) -> Array:
    size_SR = np.abs(r_SR)
    inside_SR = np.minimum(size_SR, delta)
    total_S: Array = (weight_SR * inside_SR * (size_SR - inside_SR / 2)).sum(-1)
    return np.where(np.isfinite(total_S), total_S, np.inf)
