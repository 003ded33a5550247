"""`merge`: a folder out of a model and adapters, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelworks.adapt.adapter import Applied
from modelworks.adapt.read import read
from modelworks.core.lineage import Lineage
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load
from modelworks.models.save import save

SHAPE = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save(Llama(LlamaConfig.from_hf({"model_type": "llama", **SHAPE})), tmp_path / "model")


@torch.no_grad()
def test_it_writes_a_model(run, folder: Path, save_adapter: Callable[..., Path]) -> None:
    base, ids = load(folder), torch.arange(5)[None]
    adapter = save_adapter(folder.parent / "adapter", base)
    out = folder.parent / "merged"
    result = run("merge", folder, adapter, "--out", out)
    assert (result.status, result.out, result.err) == (0, f"{out}\n", "")
    with Applied(base, read(adapter, base).matrices()):
        torch.testing.assert_close(load(out)(ids), base(ids))
    assert Lineage.read(out).parents == (str(folder), str(adapter))
    run("merge", folder, adapter, "--out", out).assert_one_line_error("is there already", "--force")
    assert run("merge", folder, adapter, "--out", out, "--force", "--dtype", "bfloat16").status == 0
    assert '"dtype": "bfloat16"' in (out / "config.json").read_text()


def test_what_is_no_adapter(run, folder: Path, save_adapter: Callable[..., Path]) -> None:
    out = folder.parent / "merged"
    run("merge", folder, "--out", out).assert_one_line_error("at least one adapter")
    run("merge", folder, folder, "--out", out).assert_one_line_error("no adapter_config.json")
    save_adapter(folder.parent / "adapter", load(folder))
    (folder.parent / "adapter" / "adapter_model.safetensors").write_bytes(b"short")
    run("merge", folder, folder.parent / "adapter", "--out", out).assert_one_line_error("damaged or cut short")
    assert not out.exists()
