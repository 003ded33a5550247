"""Model folders: whole, sharded, and damaged in every way that a download or a disk can damage them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.models.folder import CONFIG, INDEX, WEIGHTS
from modelworks.models.load import load


@pytest.fixture
def whole(pair_of, tmp_path):
    """A copy of a tiny Llama's folder, to be damaged."""
    return shutil.copytree(pair_of("llama").folder, tmp_path / "whole")


@pytest.fixture
def sharded(pair_of, tmp_path):
    pair_of("llama").hf.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    return tmp_path / "sharded"


def refused(folder, says, kind=ModelFileError):
    with pytest.raises(kind, match=says) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shards_are_read_as_one(sharded, pair_of):
    assert len(list(sharded.glob("*.safetensors"))) > 2
    whole = pair_of("llama").ours.state_dict()
    for name, tensor in load(sharded).state_dict().items():
        assert torch.equal(tensor, whole[name])


def test_a_missing_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    refused(sharded, f"{shard.name}: it is missing")


def test_a_shard_that_lacks_a_tensor_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    tensors = load_file(shard)
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, shard)
    refused(sharded, f"{shard.name}: it lacks {lost}")


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": "../x.safetensors"}, {"a": 3}, "x"])
def test_a_damaged_index_is_named(sharded, weight_map):
    (sharded / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(sharded, INDEX)


@pytest.mark.parametrize("keep", [0, 4, 9, 100, -1, -200])
def test_cut_short_weights_are_named(whole, keep):
    data = (whole / WEIGHTS).read_bytes()
    (whole / WEIGHTS).write_bytes(data[:keep])
    refused(whole, f"{WEIGHTS}: damaged or cut short")


def test_a_header_that_claims_too_much_is_named(whole):
    data = (whole / WEIGHTS).read_bytes()
    (whole / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + data[8:])
    refused(whole, "damaged or cut short")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\x00", "[" * 100_000])
def test_a_damaged_config_is_named(whole, text):
    (whole / CONFIG).write_text(text)
    refused(whole, CONFIG)


def test_missing_files_are_named(whole):
    (whole / WEIGHTS).rename(whole / "pytorch_model.bin")
    refused(whole, r"neither model\.safetensors nor .*pytorch_model\.bin is of a kind that is not read")
    (whole / "pytorch_model.bin").unlink()
    refused(whole, r"neither model\.safetensors")
    (whole / CONFIG).unlink()
    refused(whole, "it has no config.json, so it is no model folder")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "says", "kind"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "unknown architecture MambaForCausalLM", ModelFileError),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised with 'awq'", ModelFileError),
        ({"num_hidden_layers": 2_000_000_000}, "num_hidden_layers must be .* up to 10000", ConfigError),
        ({"num_hidden_layers": 9_999}, "9999 layers, but there are only 30 tensors", ModelFileError),
        ({"num_hidden_layers": 4}, r"model\.layers\.3\..* is missing", ModelFileError),
        ({"num_hidden_layers": 2}, r"layers\.2\..* and 8 more has no place in a Llama", ModelFileError),
        ({"hidden_size": 96}, r"is \(97, 48\), the config asks for \(97, 96\)", ModelFileError),
        ({"hidden_size": 2**31 - 1, "vocab_size": 2**31 - 1, "head_dim": 8}, "more than any memory", ModelFileError),
        ({"hidden_size": "wide"}, "hidden_size must be", ConfigError),
        ({"num_key_value_heads": 4}, "not a multiple", ConfigError),
        ({"rope_parameters": {"rope_type": "spiral"}}, "'spiral'", ConfigError),
    ],
)
def test_a_config_that_does_not_fit_is_named(whole, changes, says, kind):
    edit(whole / CONFIG, **changes)
    refused(whole, says, kind)


def test_integers_are_no_weights(whole):
    tensors = load_file(whole / WEIGHTS)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, whole / WEIGHTS)
    refused(whole, r"model\.norm\.weight is torch\.int8")


def test_two_spellings_of_one_parameter_are_refused(whole):
    tensors = load_file(whole / WEIGHTS)
    tensors["norm.weight"] = tensors["model.norm.weight"].clone()
    save_file(tensors, whole / WEIGHTS)
    refused(whole, "are the same parameter")


def test_generation_defaults_are_read(whole):
    (whole / "generation_config.json").write_text('{"temperature": 0.7, "eos_token_id": [2, 5]}')
    assert load(whole).generation_defaults == {"temperature": 0.7, "eos_token_id": [2, 5]}
    (whole / "generation_config.json").unlink()
    assert load(whole).generation_defaults == {}
