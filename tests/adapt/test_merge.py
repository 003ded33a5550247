"""Models and adapters from disk, merged: equal to what they compute apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelworks.adapt import lora, peft, qlora
from modelworks.adapt.lora import LoraConfig
from modelworks.adapt.merge import merged
from modelworks.adapt.read import read
from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.models.llama import Llama
from modelworks.models.load import load
from modelworks.models.save import save


@pytest.fixture
def folder(tiny: Llama, tmp_path: Path) -> Path:
    return save(tiny, tmp_path / "model")


def trained(model: Llama, out: Path, **config: object) -> Path:
    """An adapter saved as if it had been trained on that model."""
    lora.apply(model, LoraConfig(rank=4, **config))
    generator = torch.Generator().manual_seed(len(out.name))
    with torch.no_grad():
        for part in lora.parts_of(model).values():
            part.b_Rr.add_(0.1 * torch.randn(part.b_Rr.shape, generator=generator))
    return peft.save(model, out)


@torch.no_grad()
def test_several_add_up(
    folder: Path, ids_BT: torch.Tensor, assert_equal: Callable[..., None], save_adapter: Callable[..., Path]
) -> None:
    paths = [
        save_adapter(folder.parent / "plain", load(folder), strength=0.2),
        trained(load(folder), folder.parent / "dora", dora=True),
        trained(load(folder), folder.parent / "rslora", rslora=True, targets=("q_proj",)),
    ]
    apart = load(folder).double()
    for number, path in enumerate(paths):
        lora.attach(apart, read(path, apart), str(number))
    lora.activate(apart, "0", "1", "2")
    found = merged(folder, paths, dtype=torch.float64)
    assert_equal(found(ids_BT), apart(ids_BT))
    assert float((found(ids_BT) - load(folder)(ids_BT)).abs().max()) > 0.1
    assert {each.dtype for each in merged(folder, paths[:1], dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_what_was_trained_on_rounded_weights_is_merged_onto_them(
    folder: Path, ids_BT: torch.Tensor, assert_equal: Callable[..., None]
) -> None:
    """peft#2321; the adapter's lineage says so."""
    model = load(folder, dtype=torch.float64, pack=qlora.to_nf4)
    adapter = trained(model, folder.parent / "adapter")
    assert read(adapter, load(folder)).base == "NF4"
    found = merged(folder, [adapter], dtype=torch.float64)
    assert_equal(found(ids_BT), model(ids_BT))
    apart = load(folder, dtype=torch.float64)
    lora.attach(apart, read(adapter, apart))
    assert float((found(ids_BT) - apart(ids_BT)).abs().max()) > 0.1


def test_adapters_of_unlike_weights_are_not_merged(folder: Path) -> None:
    adapters = [
        trained(load(folder, pack=pack), folder.parent / name)
        for name, pack in (("plain", None), ("rounded", qlora.to_nf4))
    ]
    with pytest.raises(ConfigError, match=r"unlike weights.*plain \(as they are\).*rounded \(NF4\)"):
        merged(folder, adapters, dtype=torch.float32)


def test_an_adapter_that_is_none(folder: Path) -> None:
    with pytest.raises(ModelFileError, match="nothing: no such file or folder"):
        merged(folder, [folder.parent / "nothing"], dtype=torch.float32)
