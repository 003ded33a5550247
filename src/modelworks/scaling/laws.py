"""Laws of the loss of a language model, and what they make of a budget.

A law's numbers are floats, or arrays that hold one value a bootstrap resample: every method works on both, and so an
interval of anything is the quantiles of the same method on the resamples.

N is parameters, D tokens, C = 6 N D training FLOPs; losses are in nats a token. How N is counted belongs to a law's
fit (`fit.Fit.counting`), since a law of one count says nothing about the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from modelworks.scaling.minimise import Array
from modelworks.scaling.runs import FLOPS_PER_PARAMETER

Value: TypeAlias = "float | Array"
PF_DAY = 8.64e19
"""FLOPs of a day at 10^15 a second, Kaplan's unit of compute."""


@dataclass(frozen=True)
class Chinchilla:
    """L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv:2203.15556, eq. 2)."""

    name: ClassVar[str] = "chinchilla"
    E: Value
    A: Value
    alpha: Value
    B: Value
    beta: Value

    def loss(self, N: Value, D: Value) -> Value:
        return self.E + self.A * N**-self.alpha + self.B * D**-self.beta

    def optimum(self, flops: Value) -> tuple[Value, Value]:
        """N and D of the lowest loss under 6 N D = C (eq. 4). Rounded constants move it far."""
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        N = G * (flops / FLOPS_PER_PARAMETER) ** self.exponent
        return N, flops / (FLOPS_PER_PARAMETER * N)

    @property
    def exponent(self) -> Value:
        """a of N = k C^a."""
        return self.beta / (self.alpha + self.beta)


@dataclass(frozen=True)
class Kaplan:
    """L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D (Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5).

    With D infinite it is their L(N), eq. 1.1, and with N infinite L(D), eq. 1.2.
    """

    name: ClassVar[str] = "kaplan"
    N_c: Value
    alpha_N: Value
    D_c: Value
    alpha_D: Value

    def loss(self, N: Value, D: Value) -> Value:
        return ((self.N_c / N) ** (self.alpha_N / self.alpha_D) + self.D_c / D) ** self.alpha_D

    def optimum(self, flops: Value) -> tuple[Value, Value]:
        """N and D of the lowest loss under 6 N D = C, for runs as long as they need.

        It is not the N = k C^0.73 of eq. 1.7 (`KAPLAN_FRONTIER`), which stops runs before they converge and takes the
        loss from learning curves at one schedule; that is what Hoffmann et al. found to favour large models.
        """
        ratio = self.alpha_N / self.alpha_D
        N = (ratio * self.N_c**ratio * flops / (FLOPS_PER_PARAMETER * self.D_c)) ** (1 / (1 + ratio))
        return N, flops / (FLOPS_PER_PARAMETER * N)

    @property
    def exponent(self) -> Value:
        """a of N = k C^a."""
        return self.alpha_D / (self.alpha_N + self.alpha_D)


@dataclass(frozen=True)
class PowerLaw:
    """L = (scale / x)^alpha, of size, data or compute alone (Kaplan et al. 2020, eq. 1.1 to 1.3)."""

    name: ClassVar[str] = "power"
    scale: Value
    alpha: Value

    def loss(self, x: Value) -> Value:
        return (self.scale / x) ** self.alpha


@dataclass(frozen=True)
class Frontier:
    """N = k C^a: the compute-optimal sizes alone, which is what approaches 1 and 2 give."""

    name: ClassVar[str] = "frontier"
    k: Value
    a: Value

    def optimum(self, flops: Value) -> tuple[Value, Value]:
        N = self.k * flops**self.a
        return N, flops / (FLOPS_PER_PARAMETER * N)

    @property
    def exponent(self) -> Value:
        return self.a


KAPLAN = Kaplan(N_c=8.8e13, alpha_N=0.076, D_c=5.4e13, alpha_D=0.095)
"""As printed (eq. 1.1 and 1.2), N without embeddings."""
KAPLAN_COMPUTE = PowerLaw(scale=3.1e8 * PF_DAY, alpha=0.050)
"""L of the least compute that reaches it, as printed (eq. 1.3)."""
KAPLAN_FRONTIER = Frontier(k=1.3e9 / PF_DAY**0.73, a=0.73)
"""As printed (eq. 1.7 and table 6), N without embeddings."""

_R_D = 15.387756
"""Repetitions after which a repeated token has lost 1 - 1/e of its worth (Muennighoff et al. 2023, section 5)."""


def effective_tokens(tokens: Value, unique: Value) -> Value:
    """What `tokens` are worth that are `unique` ones repeated (Muennighoff et al. 2023, arXiv:2305.16264, eq. 5).

    Four epochs are worth 93% of as much new text, forty 38%.
    """
    repetitions = np.maximum(tokens / unique - 1, 0)
    return np.minimum(tokens, unique) + np.minimum(tokens, unique) * _R_D * -np.expm1(-repetitions / _R_D)
