"""A model's forward as a flat list of steps over packed weights, and the native loop that runs them.

The steps work on buffers, one row a token, which a plan numbers and gives widths. What a family is, its plan says
(`models/plan.py`); the loop in C++ (`cpp/program.cpp`) knows no family.

Shapes: N new tokens of B sequences, one after the other; M entries of a block table; R wanted tokens; V vocabulary.
An adapter's matrices are a_rC and b_Rr, beside a matrix of R rows and C columns; r is the rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError
from modelworks.kernels.linear import Floats, Packed
from modelworks.kernels.native import isa, native, threads

BLOCK_SIZE = 32
NO_WINDOW = 2**31 - 1
LOGITS = -1
_DENSE = 8  # rows of a float matrix that the kernels read side by side
GATES = {"silu": 0, "gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "relu": 3}

Int32s = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """x / rms(x) * weight (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    weight: Floats
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class Embed:
    """target = scale * the tokens' rows of the table."""

    target: int
    table: Packed
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """target = parts * f(source) + bias, or that added to what the target holds.

    The parts are matrices on top of each other, packed alike or not. `before`, f, is nothing, a norm, or the name of
    an activation (`GATES`): act(left half) * right half. The target `LOGITS` is for wanted tokens alone. By `names`,
    one for each part, adapters find them. `fine` keeps what rounding takes off the activations where one of them
    dominates (see `linear.quantize_rest`).
    """

    source: int
    target: int
    parts: tuple[Packed, ...]
    bias: Floats | None = None
    add: bool = False
    before: Norm | str | None = None
    fine: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Attend:
    """Causal attention of `heads` query heads over a layer's cache, to which it first appends.

    The source is q, k and v side by side. Each head of q and k is normed where weights are given, and turned by
    `position * frequencies` in pairs (i, i + D/2); cos and sin are multiplied with `rope_factor`. A token sees itself
    and the `window` - 1 before it.
    """

    source: int
    target: int
    layer: int
    heads: int
    scale: float
    frequencies: Floats
    rope_factor: float = 1.0
    window: int = NO_WINDOW
    q_norm: Floats | None = None
    k_norm: Floats | None = None
    eps: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class AddNorm:
    """target += norm(source)."""

    source: int
    target: int
    norm: Norm


Step = Embed | Linear | Attend | AddNorm


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Steps, the widths of the buffers that they number, and the shape of the cache that they need."""

    widths: tuple[int, ...]
    steps: tuple[Step, ...]
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    requantized: tuple[str, ...] = ()
    """Matrices whose type has no packed form here, rounded anew to 8 bits, with that type."""

    @property
    def matrices(self) -> tuple[Packed, ...]:
        """Each packed matrix once: a tied head is the embedding's."""
        found: dict[int, Packed] = {}
        for step in self.steps:
            for matrix in (step.table,) if isinstance(step, Embed) else getattr(step, "parts", ()):
                found[id(matrix)] = matrix
        return tuple(found.values())

    @property
    def weight_bytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices)

    @property
    def block_bytes(self) -> int:
        """What one block of the cache takes: fp16 keys and values of all layers."""
        return self.layers * 2 * self.kv_heads * (-(-self.head_dim // 16) * 16) * BLOCK_SIZE * 2


class Program:
    """A plan, bound to native kernels and a paged fp16 cache of `num_blocks` blocks of `block_size` tokens.

    Results are batch-invariant: a token's logits depend, bit for bit, on its own sequence alone, not on its
    neighbours, on how its prompt was cut into steps, or on the number of threads.
    Raises ConfigError where there are no native kernels (see `kernels.native.native`).
    """

    block_size = BLOCK_SIZE

    def __init__(self, plan: Plan, *, num_blocks: int, num_threads: int | None = None) -> None:
        extension = native()
        if extension is None:
            raise ConfigError("a program needs the native kernels; run the torch model instead")
        if num_blocks < 1:
            raise ConfigError(f"num_blocks must be 1 or more, got {num_blocks}")
        self.plan = plan
        self.num_blocks = num_blocks
        self.vocab_size = plan.vocab_size
        self._native = extension.Program(
            widths=list(plan.widths),
            layers=plan.layers,
            kv_heads=plan.kv_heads,
            head_dim=plan.head_dim,
            num_blocks=num_blocks,
            vocab=plan.vocab_size,
            threads=num_threads or threads(),
            isa=isa(),
        )
        self._ropes: dict[tuple[bytes, float], int] = {}
        self._parts: dict[str, tuple[int, int, Packed]] = {}  # by name: of which linear step, which part, and it
        self._linears = 0
        for step in plan.steps:
            self._append(step)

    @property
    def nbytes(self) -> int:
        """Weights and the whole cache; the system gives the cache's memory only as blocks are first used."""
        return self.plan.weight_bytes + int(self._native.cache_bytes)

    def step(
        self,
        ids_N: Int32s,
        starts_B1: Int32s,
        held_B: Int32s,
        table_BM: Int32s,
        wanted_R: Int32s,
        adapters_B: Int32s | None = None,
    ) -> NDArray[np.float32]:
        """Append the new tokens of each sequence to the cache; return the wanted tokens' logits_RV.

        Sequence b's new tokens are ids[starts[b] : starts[b + 1]], and `held[b]` tokens of it are in the cache, whose
        block i, named in table[b] (padded with -1), holds positions 32 i to 32 i + 31. `wanted` are indices into N.
        `adapters` has the number of each sequence's adapter, or -1; a sequence without one pays nothing for others'.
        Raises ValueError for ids, blocks or indices out of range; the cache is then as it was.
        """
        logits_RV = np.empty((len(wanted_R), self.vocab_size), np.float32)
        whole = (np.ascontiguousarray(x, np.int32) for x in (ids_N, starts_B1, held_B, table_BM, wanted_R))
        adapters = None if adapters_B is None else np.ascontiguousarray(adapters_B, np.int32)
        self._native.step(*whole, logits_RV, adapters)
        return logits_RV

    def add_adapter(self, matrices: Mapping[str, tuple[Floats, Floats]]) -> int:
        """Keep an adapter, by parts' names a_rC and b_Rr: y += b (a x), x as it is before it is rounded to 8 bits.

        Returns its number for `step`, which goes on meanwhile. Raises ValueError for a name that the plan has not, or
        that is the head's, and for shapes that do not fit.
        """
        sizes = []
        for name, (a_rC, b_Rr) in matrices.items():
            if name not in self._parts:
                raise ValueError(f"the plan has no matrix {name} that an adapter could add to")
            packed = self._parts[name][2]
            rank = len(a_rC)
            if rank < 1 or a_rC.shape != (rank, packed.cols) or b_Rr.shape != (packed.rows, rank):
                raise ValueError(
                    f"an adapter of {a_rC.shape} and {b_Rr.shape} does not fit {name}, {packed.rows} x {packed.cols}"
                )
            sizes += [_tiled_size(a_rC), _tiled_size(b_Rr)]
        # Side by side in one array: numpy asks for huge pages for it, and decoding reads it in this order.
        buffer, pairs = np.zeros(sum(sizes), np.float32), []
        for name in sorted(matrices, key=lambda name: self._parts[name][:2]):
            step, part, _ = self._parts[name]
            a, buffer = _tiled(matrices[name][0], buffer)
            b, buffer = _tiled(matrices[name][1], buffer)
            pairs.append((step, part, len(matrices[name][0]), a, b))
        return int(self._native.add_adapter(pairs))

    def remove_adapter(self, number: int) -> None:
        """Forget an adapter, not before a step that runs is done. Raises ValueError for a number that is none's."""
        self._native.remove_adapter(number)

    def copy_block(self, source: int, target: int) -> None:
        """Copy a cache block, all layers. Raises ValueError for a block that is not there."""
        self._native.copy_block(source, target)

    def _append(self, step: Step) -> None:
        match step:
            case Embed():
                self._native.embed(step.target, step.table, step.scale)
            case Linear(before=before):
                if step.target != LOGITS:
                    places = enumerate(zip(step.names, step.parts))
                    self._parts |= {name: (self._linears, at, part) for at, (name, part) in places}
                self._linears += 1
                norm = before if isinstance(before, Norm) else None
                self._native.linear(
                    step.source,
                    step.target,
                    list(step.parts),
                    step.bias,
                    step.add,
                    step.fine,
                    0 if before is None else 1 if norm else 2,
                    norm.weight if norm else None,
                    norm.eps if norm else 0.0,
                    GATES[before] if isinstance(before, str) else 0,
                )
            case Attend():
                key = (step.frequencies.tobytes(), step.rope_factor)
                if key not in self._ropes:
                    self._ropes[key] = self._native.rope(step.frequencies, step.rope_factor)
                self._native.attend(
                    step.source,
                    step.target,
                    step.layer,
                    step.heads,
                    step.scale,
                    step.window,
                    self._ropes[key],
                    step.q_norm,
                    step.k_norm,
                    step.eps,
                )
            case AddNorm():
                self._native.add_norm(step.source, step.target, step.norm.weight, step.norm.eps)


def _tiled_size(matrix: Floats) -> int:
    return -(-len(matrix) // _DENSE) * _DENSE * matrix.shape[1]


def _tiled(matrix: Floats, buffer: Floats) -> tuple[Floats, Floats]:
    """A matrix as the kernels read it: (tiles, columns, 8 rows), in the buffer's beginning; and the buffer's rest.

    The buffer is zeros, and so are rows that fill up the last tile.
    """
    rows, cols = matrix.shape
    size = _tiled_size(matrix)
    tiled = buffer[:size].reshape(-1, cols, _DENSE)
    whole = rows // _DENSE
    tiled[:whole] = matrix[: whole * _DENSE].reshape(whole, _DENSE, cols).transpose(0, 2, 1)
    if left := rows % _DENSE:
        tiled[whole, :, :left] = matrix[-left:].T
    return tiled, buffer[size:]
