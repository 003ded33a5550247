"""Folders that we write: read back bit for bit, and read by transformers as they are."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from modelworks.core.errors import ModelFileError
from modelworks.core.lineage import Lineage
from modelworks.models.load import load
from modelworks.models.save import save


def test_transformers_reads_what_we_write(pair, ids_BT, tmp_path):
    import transformers

    folder = save(pair.ours, tmp_path / "ours")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert type(theirs) is type(pair.hf)
    assert not any(report.values()), report
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, pair.hf.state_dict()[name]), name
    with torch.no_grad():
        # The same weights in other memory: experts that transformers stacks as it loads round a little differently.
        torch.testing.assert_close(theirs.eval()(ids_BT).logits, pair.hf_logits(ids_BT), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_round_trip_is_bit_exact(pair, dtype, tmp_path):
    first = load(pair.folder, dtype=dtype)
    second = load(save(first, tmp_path / "again"), dtype=dtype)
    assert second.config == first.config
    assert list(second.state_dict()) == list(first.state_dict())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_a_tied_head_stays_one_matrix(pair_of, tmp_path):
    """llm-compressor#2835, transformers#37905: stored once, loaded once, and training the head trains the embedding."""
    folder = save(pair_of("qwen2").ours, tmp_path / "tied")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (not a dict)
        assert file.metadata() == {"format": "pt"}
    model = load(folder)
    model(torch.tensor([[5, 6]])).sum().backward()
    assert model.output_embedding() is model.model.embed_tokens.weight
    assert model.model.embed_tokens.weight.grad[90].any()  # a token that was not in the input: through the head


def test_large_models_are_sharded(pair_of, tmp_path, ids_BT):
    import transformers

    pair = pair_of("gemma3")
    folder = save(pair.ours, tmp_path / "shards", max_shard_bytes=20_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert shards[-1].name == f"model-{len(shards):05d}-of-{len(shards):05d}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in pair.ours.parameters())
    for shard in shards:
        tensors = load_file(shard)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 20_000
    for model in (load(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)):
        for name, tensor in pair.ours.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])


def test_saving_over_another_model_leaves_nothing_of_it(pair_of, tmp_path):
    folder = save(pair_of("gemma3").ours, tmp_path / "model", max_shard_bytes=20_000)
    save(pair_of("llama").ours, folder)
    alone = save(pair_of("llama").ours, tmp_path / "alone")
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}


def test_a_failed_save_keeps_the_old_model(pair_of, tmp_path, monkeypatch):
    folder = save(pair_of("llama").ours, tmp_path / "model")

    def full(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modelworks.models.save.save_file", full)
    with pytest.raises(ModelFileError, match=f"{folder}: cannot be written: No space left on device"):
        save(pair_of("gpt2").ours, folder)
    assert type(load(folder)).__name__ == "Llama"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_lineage_is_recorded(pair_of, tmp_path):
    model = pair_of("llama").ours
    record = Lineage(parents=("starter",), seed=3, metrics={"loss": 1.5})
    assert Lineage.read(save(model, tmp_path / "a", lineage=record)) == record
    assert Lineage.read(save(load(tmp_path / "a"), tmp_path / "b")).parents == (str(tmp_path / "a"),)


def test_generation_defaults_are_kept(pair_of, tmp_path):
    model = load(pair_of("llama").folder)
    model.generation_defaults = {"temperature": 0.6, "eos_token_id": [2, 3]}
    assert load(save(model, tmp_path / "model")).generation_defaults == model.generation_defaults


def test_the_starter_becomes_a_folder_with_its_tokenizer(starter, tmp_path):
    import transformers

    model = load(starter, dtype=torch.bfloat16)
    folder = save(model, tmp_path / "starter")
    again = load(folder, dtype=torch.bfloat16)
    text = "<|im_start|>user\nNaïve 🙂 test<|im_end|>\n"
    ids = model.tokenizer.encode(text, parse_special=True)
    assert again.tokenizer.encode(text, parse_special=True) == ids
    assert again.tokenizer.chat_template == model.tokenizer.chat_template is not None
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs(text)["input_ids"] == ids
    assert theirs.chat_template == model.tokenizer.chat_template
    for (name, tensor), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
