"""GGUF's layout of an adapter against PEFT's, and files of other kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file

from modelworks.adapt.peft import CONFIG, WEIGHTS
from modelworks.adapt.read import read
from modelworks.core.errors import ModelFileError
from modelworks.models.llama import Llama, LlamaConfig

HEADS = {"q": 6, "k": 2}
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def to_gguf(folder: Path, path: Path, *, arch: str = "llama", metadata: dict[str, Any] | None = None) -> Path:
    """A PEFT folder as llama.cpp's `convert_lora_to_gguf.py` writes it."""
    config = json.loads((folder / CONFIG).read_text())
    writer = gguf.GGUFWriter(path, arch)
    stated = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(config["lora_alpha"])}
    for key, value in (stated | (metadata or {})).items():
        if value is not None:
            (writer.add_string if isinstance(value, str) else writer.add_float32)(key, value)
    for name, tensor in load_file(folder / WEIGHTS).items():
        layer, part, half = re.fullmatch(
            r"base_model\.model\.model\.layers\.(\d+)\.(.+)\.(lora_[AB])\.weight", name
        ).groups()
        values = tensor.numpy()
        if arch == "llama" and half == "lora_B" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = HEADS["q" if "q_proj" in part else "k"]
            values = np.ascontiguousarray(interleaved(values, heads))
        writer.add_tensor(f"blk.{layer}.{PARTS[part]}.weight.{half.lower()}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_gguf_file_is_the_same_adapter(
    family: str, pair_of: Callable[[str], tuple[Any, Any]], peft_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Llama's q and k lie otherwise in GGUF, the rows of b with them; Qwen2's do not."""
    hf, ours = pair_of(family)
    peft_model(hf, tmp_path / "peft", r=4, lora_alpha=6, target_modules="all-linear")
    file = to_gguf(tmp_path / "peft", tmp_path / "adapter.gguf", arch=family)
    assert read(file, ours).digest == read(tmp_path / "peft", ours).digest


def test_a_gguf_file_that_states_no_alpha_has_the_scale_1(
    tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """llama.cpp's rule."""
    folder = save_adapter(tmp_path / "peft", tiny, lora_alpha=40)
    for alpha in (None, 0.0):
        file = to_gguf(folder, tmp_path / "adapter.gguf", metadata={"adapter.lora.alpha": alpha})
        assert {each.scale for each in read(file, tiny).additions.values()} == {1.0}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"general.type": "model"}, "general.type is 'model'"),
        ({"general.type": None}, "general.type is None"),
        ({"adapter.type": "control_vector"}, "adapter.type is 'control_vector'"),
        ({"adapter.lora.alpha": "big"}, "adapter.lora.alpha is 'big'"),
        ({"adapter.lora.alpha": float("nan")}, "adapter.lora.alpha is nan"),
        ({"adapter.alora.invocation_tokens": "1 2"}, "aLoRA"),
    ],
)
def test_a_gguf_file_of_another_kind(
    metadata: dict[str, Any], said: str, tiny: Llama, save_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    file = to_gguf(save_adapter(tmp_path / "peft", tiny), tmp_path / "adapter.gguf", metadata=metadata)
    with pytest.raises(ModelFileError, match=said) as raised:
        read(file, tiny)
    assert str(file) in str(raised.value)


def test_a_gguf_file_for_another_model(
    tiny: Llama, shape: dict[str, Any], save_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    file = to_gguf(save_adapter(tmp_path / "peft", tiny), tmp_path / "adapter.gguf", arch="qwen2")
    with pytest.raises(ModelFileError, match="an adapter for qwen2 does not fit a llama model"):
        read(file, tiny)
    wide = Llama(LlamaConfig.from_hf({"model_type": "llama", **shape, "hidden_size": 96}))
    file = to_gguf(tmp_path / "peft", tmp_path / "adapter.gguf")
    with pytest.raises(ModelFileError, match=r"tensor blk.0.\w+.weight.lora_. is .*, expected .* the rank is 4"):
        read(file, wide)
