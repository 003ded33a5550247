"""Adapters as arrays: computing with one beside a model that is not touched, and what is not computed so."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modelworks.adapt.adapter import Adapter, Applied
from modelworks.adapt.read import read
from modelworks.core.errors import ModelFileError
from modelworks.models.llama import Llama


def test_other_threads_compute_without_it(
    tiny: Llama, ids_BT: torch.Tensor, save_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    with torch.no_grad():
        plain = tiny(ids_BT)
    seen: list[torch.Tensor] = []

    @torch.no_grad()
    def compute() -> None:
        seen.append(tiny(ids_BT))

    with Applied(tiny, read(save_adapter(tmp_path, tiny), tiny).matrices()):
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
        compute()
    compute()
    assert torch.equal(seen[0], plain)
    assert not torch.allclose(seen[1], plain, rtol=0.1)
    assert torch.equal(seen[2], plain)


def test_the_digest_is_that_of_what_is_computed(tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path) -> None:
    first, again, other, scaled = (
        read(save_adapter(tmp_path / str(at), tiny, **settings), tiny).digest
        for at, settings in enumerate(({}, {}, {"seed": 1}, {"lora_alpha": 5}))
    )
    assert first == again
    assert len({first, other, scaled}) == 3


def test_matrices_of_another_model(tiny: Llama) -> None:
    with pytest.raises(ValueError, match=r"no matrix layers\.7"):
        Applied(tiny, {"layers.7.self_attn.q_proj": (np.zeros((1, 48), np.float32), np.zeros((48, 1), np.float32))})


def test_dora_is_no_sum_of_matrices(tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path) -> None:
    plain = read(save_adapter(tmp_path, tiny), tiny)
    additions = {
        name: dataclasses.replace(each, m_R=np.ones(len(each.b_Rr), np.float32))
        for name, each in plain.additions.items()
    }
    with pytest.raises(ModelFileError, match=r"DoRA adapter .* `modelworks merge`"):
        Adapter(plain.source, additions).matrices()
