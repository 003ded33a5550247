"""What computes a step of the engine: new tokens of many sequences in, logits out, keys and values in paged blocks.

A runner knows blocks and nothing of requests, prefixes or sampling: `paged` decides which blocks a sequence has, and
`schedule` which tokens a step computes. The native program of `kernels` is one; `TorchRunner` serves every family.

Shapes: N new tokens of all sequences, B sequences, M blocks of the longest table, R rows of logits that are wanted,
V vocabulary, K key-value heads, T new tokens of one sequence, S tokens held after them, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelworks.adapt.adapter import Applied, Floats
from modelworks.core.errors import ConfigError
from modelworks.models.base import LanguageModel, evaluating
from modelworks.models.fetch import pull
from modelworks.models.load import load
from modelworks.models.plan import native_plan, plan

if TYPE_CHECKING:
    from modelworks.kernels.program import Plan


class Runner(Protocol):
    """One step over a ragged batch, and the pool of blocks that it reads and writes.

    A row's logits depend on the tokens of its own sequence alone, whatever else is in the batch.
    """

    @property
    def block_size(self) -> int:
        """Tokens that a block holds."""
        ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    def step(
        self,
        ids_N: NDArray[np.int32],
        starts_B1: NDArray[np.int32],
        held_B: NDArray[np.int32],
        table_BM: NDArray[np.int32],
        wanted_R: NDArray[np.int32],
        adapters_B: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """Compute new tokens, keep their keys and values, and return logits_RV.

        Sequence b's new tokens are `ids_N[starts_B1[b] : starts_B1[b + 1]]`, at positions from `held_B[b]` on; its
        earlier tokens are in its blocks already. Block i of its row in `table_BM` (padded with -1) holds positions
        from i * block_size on. `wanted_R` are indices into `ids_N`. `adapters_B` are numbers that `add_adapter` gave,
        or -1 for the model itself.
        """
        ...

    def copy_block(self, source: int, target: int) -> None: ...

    def add_adapter(self, matrices: Mapping[str, tuple[Floats, Floats]]) -> int:
        """Take an adapter's matrices (`Adapter.matrices`), from any thread; return its number for `step`."""
        ...

    def remove_adapter(self, number: int) -> None:
        """Let an adapter go that no later step names."""
        ...


def open_model(
    model: LanguageModel | str | Path, *, kv_bytes: int, weights: Literal["q8", "q4"] | None = None
) -> tuple[LanguageModel, Runner]:
    """A model and what computes it, with `kv_bytes` for keys and values.

    A GGUF file, or a reference to one, is computed natively from its own packed blocks; the model then has no weights
    itself (torch's meta device), only what surrounds them. Anything else is computed by torch, exactly as it is, unless
    `weights` asks for the native program: its weights are packed to 8 or 4 bits, and `ConfigError` says where the
    family has no plan or the machine no compiler. Raises what `load` raises.
    """
    if not isinstance(model, LanguageModel):
        path = pull(model)
        if weights is None and (packed := native_plan(path)) is not None:
            return load(path, kind=LanguageModel, device="meta"), _program(packed, kv_bytes)
        model = load(path, kind=LanguageModel)
    if weights is not None:
        return model, _program(plan(model, weights), kv_bytes)
    return model, TorchRunner(model, kv_bytes=kv_bytes)


def _program(plan: Plan, kv_bytes: int) -> Runner:
    from modelworks.kernels.program import Program

    return Program(plan, num_blocks=_blocks(kv_bytes, plan.block_bytes, Program.block_size))


def _blocks(kv_bytes: int, block_bytes: int, block_size: int) -> int:
    """How many blocks a budget holds. Raises `ConfigError` for none."""
    if kv_bytes < block_bytes:
        raise ConfigError(
            f"kv_bytes is {kv_bytes}; one block of {block_size} tokens takes {block_bytes} bytes in this model"
        )
    return kv_bytes // block_bytes


class TorchRunner:
    """A runner over a torch model: a family needs nothing but its module.

    Each sequence is a forward pass of its own, so a neighbour cannot change it. What does change a sum's last bits is
    how many tokens one call computes; answers are those of `generate` up to that. Keys and values keep the dtype that
    the model computes them in. Raises `ConfigError` where `kv_bytes` holds not even one block.
    """

    def __init__(self, model: LanguageModel, *, kv_bytes: int = 512 << 20, block_size: int = 32) -> None:
        if block_size < 1:
            raise ConfigError(f"block_size is {block_size}, expected at least 1")
        self._model = model
        self._device = next(model.parameters()).device
        self.block_size = block_size
        self.vocab_size = int(model.config.vocab_size)
        shapes = self._shapes()
        block_bytes = block_size * sum(part.nbytes for layer in shapes for part in layer)
        self.num_blocks = _blocks(kv_bytes, block_bytes, block_size)
        with torch.inference_mode():
            self._pools = [
                tuple(part.new_empty(self.num_blocks * block_size, part.shape[1], part.shape[3]) for part in layer)
                for layer in shapes
            ]
        self._adapters: dict[int, Applied] = {}
        self._numbers = count()

    @torch.inference_mode()
    def _shapes(self) -> list[tuple[Tensor, Tensor]]:
        """One token's keys and values, layer by layer, as the model computes them."""
        probe = _Probe()
        with evaluating(self._model):
            self._model(torch.zeros((1, 1), dtype=torch.int64, device=self._device), cache=probe, last_only=True)
        return [probe.seen[layer] for layer in range(len(probe.seen))]

    @torch.inference_mode()
    def step(
        self,
        ids_N: NDArray[np.int32],
        starts_B1: NDArray[np.int32],
        held_B: NDArray[np.int32],
        table_BM: NDArray[np.int32],
        wanted_R: NDArray[np.int32],
        adapters_B: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        logits_RV = np.empty((len(wanted_R), self.vocab_size), dtype=np.float32)
        with evaluating(self._model):
            for b, held in enumerate(held_B):
                start, end = int(starts_B1[b]), int(starts_B1[b + 1])
                ids_1T = torch.from_numpy(ids_N[start:end]).long().to(self._device)[None]
                cache = _Paged(self._pools, self._slots(table_BM[b], int(held) + end - start), int(held))
                rows = np.flatnonzero((wanted_R >= start) & (wanted_R < end))
                at = wanted_R[rows] - start
                last_only = bool((at == end - start - 1).all())  # the head is the dearest part of a long prefill
                number = -1 if adapters_B is None else int(adapters_B[b])
                with self._adapters[number] if number >= 0 else nullcontext():
                    logits_TV = self._model(ids_1T, cache=cache, last_only=last_only)[0].float().cpu()
                logits_RV[rows] = logits_TV.numpy()[[-1] * len(rows) if last_only else at]
        return logits_RV

    def add_adapter(self, matrices: Mapping[str, tuple[Floats, Floats]]) -> int:
        number = next(self._numbers)
        self._adapters[number] = Applied(self._model, matrices)
        return number

    def remove_adapter(self, number: int) -> None:
        del self._adapters[number]

    def _slots(self, blocks_M: NDArray[np.int32], length: int) -> Tensor:
        """Where in the pools the first `length` tokens of a sequence are."""
        at_S = np.arange(length)
        slots_S = blocks_M[at_S // self.block_size].astype(np.int64) * self.block_size + at_S % self.block_size
        return torch.from_numpy(slots_S).to(self._device)

    @torch.inference_mode()
    def copy_block(self, source: int, target: int) -> None:
        size = self.block_size
        for layer in self._pools:
            for pool in layer:
                pool[target * size : (target + 1) * size] = pool[source * size : (source + 1) * size]


class _Probe:
    """A cache that keeps one token of each layer, to see their shapes."""

    length = 0

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        self.seen[layer] = (k_BKTD, v_BKTD)
        return k_BKTD, v_BKTD


class _Paged:
    """One sequence's tokens in the pools, as a model sees them: `models.blocks.attention.KVCache`."""

    def __init__(self, pools: list[tuple[Tensor, ...]], slots_S: Tensor, length: int) -> None:
        self._pools = pools
        self._slots_S = slots_S
        self.length = length

    def update(self, layer: int, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (
            self._appended(pool, new[0].transpose(0, 1))
            for pool, new in zip(self._pools[layer], (k_BKTD, v_BKTD), strict=True)
        )
        return keys, values

    def _appended(self, pool: Tensor, new_TKD: Tensor) -> Tensor:
        pool[self._slots_S[self.length :]] = new_TKD
        return pool[self._slots_S].transpose(0, 1)[None]
