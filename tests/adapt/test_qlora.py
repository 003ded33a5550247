"""Adapters on frozen bases in few bits: kept as in a GGUF file, or rounded to NF4 as they are read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modelworks.adapt import lora, qlora
from modelworks.adapt.lora import LoraConfig
from modelworks.adapt.packed import PackedLinear, UnpackedLinear, packed_bytes
from modelworks.adapt.targets import places_of
from modelworks.core.errors import ModelFileError
from modelworks.core.log import console, warn_once
from modelworks.kernels.dequantize import BLOCKS
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load
from modelworks.models.save import save

WIDTH, WIDE, LAYERS = 256, 512, 2
PARTS = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // 2, WIDTH),
    "attn_v": (WIDTH // 2, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (WIDE, WIDTH),
    "ffn_up": (WIDE, WIDTH),
    "ffn_down": (WIDTH, WIDE),
}
IDS_BT = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def write(path: Path, kind: str) -> Path:
    """A Llama whose matrices are random blocks of a type."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)

    def floats(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(1, 0.1, shape).astype(np.float32))

    def blocks(name: str, rows: int, cols: int) -> None:
        if kind == "F16":
            return writer.add_tensor(name, random.normal(0, 0.06, (rows, cols)).astype(np.float16))
        nbytes, weights = BLOCKS[kind]
        made = random.integers(0, 256, (rows * cols // weights, nbytes), np.uint8)
        for at in [208] if kind == "Q6_K" else [0, 2] if kind[3] in "1K" else [0]:
            half = random.normal(0, 3e-5 if "K" in kind else 3e-4 if kind == "Q8_0" else 5e-3, (len(made), 1))
            made[:, at : at + 2] = half.astype(np.float16).view(np.uint8)
        return writer.add_tensor(name, made.reshape(rows, -1), raw_dtype=gguf.GGMLQuantizationType[kind])

    for name, shape in {"token_embd": (50, WIDTH), "output_norm": (WIDTH,)}.items():
        floats(f"{name}.weight", *shape)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            floats(f"blk.{layer}.{name}.weight", WIDTH)
        for name, shape in PARTS.items():
            blocks(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stir(model: nn.Module, strength: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(strength * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    return model(IDS_BT)


def gradients(model: Llama) -> list[Tensor]:
    torch.manual_seed(0)
    trainable = lora.apply(model, LoraConfig(rank=4))
    stir(model)
    loss = nn.functional.cross_entropy(model(IDS_BT[:, :-1]).flatten(0, 1).float(), IDS_BT[:, 1:].flatten())
    return list(torch.autograd.grad(loss, trainable))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_a_packed_file_trains_as_its_dequantised_self(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The very same numbers, forwards and backwards, and Llama's q and k in our rows' order."""
    file = write(tmp_path / "model.gguf", kind)
    plain, packed = load(file, dtype=dtype), load(file, dtype=dtype, pack=qlora.as_stored)
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == LAYERS * len(PARTS)
    assert torch.equal(outputs(packed), outputs(plain))
    for ours, theirs in zip(gradients(packed), gradients(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    stored = sum(rows * cols for rows, cols in PARTS.values()) * LAYERS
    assert packed_bytes(packed) == stored // BLOCKS[kind][1] * BLOCKS[kind][0]


def test_floats_in_a_file_stay_floats(tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf", "F16")
    model = load(file, pack=qlora.as_stored)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert torch.equal(outputs(model), outputs(load(file)))


def test_only_a_file_has_blocks_to_keep(tiny: Llama, tmp_path: Path) -> None:
    save(tiny, tmp_path / "model")
    with pytest.raises(ModelFileError, match=r"model: its weights are not packed; only a .gguf file's"):
        load(tmp_path / "model", pack=qlora.as_stored)


@pytest.mark.parametrize("pack", [qlora.as_stored, qlora.to_nf4])
def test_a_file_that_does_not_fit_its_config(pack: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf", "Q8_0")
    data = bytearray(file.read_bytes())
    at = data.index(b"llama.feed_forward_length") + len("llama.feed_forward_length") + 4
    data[at : at + 4] = (1024).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(
        ModelFileError, match=r"blk.0.ffn_gate.weight is \(512, 256\), the config asks for \(1024, 256\)"
    ):
        load(file, pack=pack)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "llama", "vocab_size": 50, "initializer_range": 0.1, "attention_bias": True, **shape}
    return save(Llama(LlamaConfig.from_hf(config)), tmp_path / "model")


def test_nf4_as_it_is_read_is_nf4_in_place(folder: Path) -> None:
    read, made = load(folder, pack=qlora.to_nf4), load(folder)
    before = outputs(made)
    qlora.quantize(made)
    assert torch.equal(outputs(read), outputs(made))
    difference = (outputs(made) - before).abs().mean() / before.abs().mean()
    assert 0.01 < float(difference) < 0.4
    weights = sum(place.shape[0] * place.shape[1] for place in places_of(made))
    assert 8 * packed_bytes(made) / weights == pytest.approx(4.127, abs=2e-3)


def test_training_moves_the_adapter_and_not_the_blocks(folder: Path) -> None:
    model = load(folder, pack=qlora.to_nf4)
    blocks = [module.blocks.clone() for module in model.modules() if isinstance(module, PackedLinear)]
    optimizer = torch.optim.AdamW(lora.apply(model, LoraConfig(rank=8, dora=True)), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(IDS_BT[:, :-1]).flatten(0, 1), IDS_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    after = [module.blocks for module in model.modules() if isinstance(module, PackedLinear)]
    assert all(torch.equal(a, b) for a, b in zip(after, blocks, strict=True))


@pytest.mark.parametrize("dora", [False, True])
def test_it_is_merged_onto_the_weights_it_was_trained_on(
    dora: bool, folder: Path, assert_equal: Callable[..., None], tmp_path: Path
) -> None:
    """peft#2321: merged onto the weights before they were rounded, the model is another one."""
    model = load(folder, dtype=torch.float64, pack=qlora.to_nf4)
    lora.apply(model, LoraConfig(rank=4, dora=dora))
    stir(model)
    found = outputs(model)
    lora.merge(model)
    assert_equal(outputs(model), found)
    lora.bake(model)
    assert_equal(outputs(model), found)
    save(model, tmp_path / "merged")
    assert_equal(outputs(load(tmp_path / "merged", dtype=torch.float64)), found)


def test_rounding_a_merged_model_again_warns(folder: Path) -> None:
    warn_once.cache_clear()
    model = load(folder, pack=qlora.to_nf4)
    lora.apply(model, LoraConfig(rank=4))
    stir(model)
    lora.bake(model)
    assert all(isinstance(place.linear, UnpackedLinear) for place in places_of(model))
    merged = outputs(model)
    with console().capture() as said:
        qlora.quantize(model)
    assert "trained on weights rounded to NF4 and is being rounded again" in " ".join(said.get().split())
    assert float((outputs(model) - merged).abs().max()) > 1e-3
    warn_once.cache_clear()
    with console().capture() as said:
        qlora.quantize(load(folder))
    assert said.get() == ""


def test_a_packed_model_that_is_saved_as_it_is(folder: Path, tmp_path: Path) -> None:
    """What is not in a folder's format must not be missing from it without a word."""
    model = load(folder, pack=qlora.to_nf4)
    with pytest.raises(ModelFileError, match=r"has no .*down_proj.weight, .* merge"):
        save(model, tmp_path / "saved")
    adapted = load(folder)
    lora.apply(adapted, LoraConfig())
    with pytest.raises(ModelFileError, match=r"merge"):
        save(adapted, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    lora.remove(adapted)
    save(adapted, tmp_path / "saved")


def test_an_adapter_from_packed_to_plain_and_back(folder: Path) -> None:
    """Removing gives the packed module back; a copy is a model of its own."""
    model = load(folder, pack=qlora.to_nf4)
    plain = outputs(model)
    lora.apply(model, LoraConfig(rank=4))
    stir(model)
    twin = copy.deepcopy(model)
    lora.remove(model)
    assert torch.equal(outputs(model), plain)
    assert not torch.equal(outputs(twin), plain)
