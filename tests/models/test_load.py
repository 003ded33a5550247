"""What `load` promises whatever the file is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import modelworks
from modelworks.core.errors import ModelFileError
from modelworks.models.base import LanguageModel
from modelworks.models.bert import BertEncoder
from modelworks.models.folder import FolderModel
from modelworks.models.load import load, load_tokenizer


def test_it_is_the_packages_load():
    assert modelworks.load is load


def test_a_loaded_model_is_ready(pair_of):
    folder = pair_of("qwen2").folder
    model = load(str(folder))
    assert not model.training
    assert model.source == folder
    assert model.tokenizer is None  # the folder holds none
    assert model.context_length == 64
    assert all(p.requires_grad and p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    assert {p.dtype for p in load(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_a_model_of_another_kind_is_refused(pair_of):
    folder = pair_of("llama").folder
    assert isinstance(load(folder, kind=LanguageModel), LanguageModel)
    with pytest.raises(ModelFileError, match=f"{folder}: it holds a Llama, not a BertEncoder"):
        load(folder, kind=BertEncoder)


@pytest.mark.parametrize("name", ["llama-tied-biased", "gpt2"])
def test_a_checkpoint_without_the_wrappers_prefix_is_the_same(name, pair_of, tmp_path):
    """As GPT-2's own checkpoint on the hub is."""
    pair = pair_of(name)
    folder = shutil.copytree(pair.folder, tmp_path / "bare")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {re.sub(r"^(model|transformer)\.", "", key): v for key, v in tensors.items()}, folder / "model.safetensors"
    )
    for key, tensor in load(folder).state_dict().items():
        assert torch.equal(tensor, pair.ours.state_dict()[key])


def test_buffers_of_old_checkpoints_are_ignored(pair_of, tmp_path):
    folder = shutil.copytree(pair_of("gpt2").folder, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors")
    load(folder)


def test_a_second_copy_of_a_tied_head_must_be_equal(pair_of, tmp_path):
    """transformers#37905: a head that differs is neither dropped nor tied without a word."""
    folder = shutil.copytree(pair_of("qwen2").folder, tmp_path / "twice")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert not [name for name in load(folder).state_dict() if "lm_head" in name]
    tensors["lm_head.weight"][3, 3] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"tie_word_embeddings.*lm_head\.weight differs"):
        load(folder)


def test_on_meta_shapes_are_checked_and_nothing_is_read(pair_of, monkeypatch):
    folder = pair_of("llama").folder
    monkeypatch.setattr(FolderModel, "read", lambda *_: pytest.fail("weights were read"))
    model = load(folder, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in pair_of("llama").ours.state_dict().items()
    }


def test_a_multimodal_gemma_gives_its_language_model(make_hf, tmp_path, ids_BT):
    """Names as in the hub's gemma-3-4b: a vision tower beside `language_model`."""
    hf = make_hf("gemma3")
    folder = tmp_path / "multimodal"
    folder.mkdir()
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}
    text = hf.config.to_dict()
    (folder / "config.json").write_text(json.dumps(config | {"text_config": text, "vision_config": {}}))
    tensors = {f"language_model.{name}": t.clone() for name, t in hf.state_dict().items() if "lm_head" not in name}
    tensors["vision_tower.patch.weight"] = torch.ones(2, 2)
    tensors["multi_modal_projector.weight"] = torch.ones(2, 2)
    save_file(tensors, folder / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(load(folder)(ids_BT), hf(ids_BT).logits, rtol=1e-5, atol=1e-4)


def test_a_reference_that_is_none_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"nowhere/model: no such file or folder; a model is a folder, a \.gguf"):
        load("nowhere/model")
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(ModelFileError, match=r"notes\.txt: .*does not start with GGUF"):
        load(tmp_path / "notes.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_loading_holds_no_second_copy_of_the_weights(starter):
    """In a process of its own: the peak grows by the weights, the mapped file, and little more."""
    code = f"""
import re, torch
from modelworks.models.load import load
import modelworks.text.tokenizer
def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) * 1024
before = peak()
model = load({str(starter)!r})
print((peak() - before) / sum(p.nbytes for p in model.parameters()))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 538 MB of weights, 98 MB of mapped file, and the tokenizer.
    assert 1.0 < float(ran.stdout) < 1.45


def test_loading_does_not_import_torchs_compiler(pair_of):
    """Its import costs seconds, and initialising meta tensors would pull it in."""
    code = f"""
import sys
from modelworks.models.load import load
load({str(pair_of("llama").folder)!r})
sys.exit('torch._dynamo' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tokenizer_alone_is_loaded_from_a_model_or_a_folder_of_its_own(starter, tmp_path):
    tokenizer = load_tokenizer(starter)
    assert tokenizer.encode("Hello there") == load(starter, device="meta").tokenizer.encode("Hello there")
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).encode("Hello there") == tokenizer.encode("Hello there")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match="empty"):
        load_tokenizer(tmp_path / "empty")
