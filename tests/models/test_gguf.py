"""GGUF files as models, against the models they were written from and transformers' own reader of the same file."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.core.gguf import GGUFFile
from modelworks.models.gguf import GGUFModel
from modelworks.models.llama import FULL
from modelworks.models.load import load

QUANTISABLE = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
SAME = ["llama", "llama-tied-biased", "llama-multi-query", "llama-linear", "llama-yarn", "mistral-full"]
SAME += ["qwen2", "qwen3", "gpt2", "gpt2-untied"]
# Rows of 32 and 64: whole blocks of every type above.
EVEN = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}


def assert_same_logits(ours, theirs, ids_BT):
    with torch.no_grad():
        expected = theirs(ids_BT).logits
        torch.testing.assert_close(ours(ids_BT), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", SAME)
def test_each_architecture_equals_its_origin(name, make_hf, to_gguf, ids_BT):
    hf = make_hf(name)
    assert_same_logits(load(to_gguf(hf)), hf, ids_BT)


def test_gemma3_equals_its_origin(make_hf, to_gguf, ids_BT):
    """The file does not state the layer pattern (five sliding to one full) nor the scale of attention (head size)."""
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    hf = make_hf(
        "gemma3", num_hidden_layers=7, layer_types=None, query_pre_attn_scalar=16, head_dim=16, rope_parameters=rope
    )
    assert_same_logits(load(to_gguf(hf)), hf, ids_BT)


@pytest.mark.parametrize("kind", QUANTISABLE)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_each_quantisation_equals_transformers_reading_the_file(kind, name, make_hf, to_gguf, ids_BT):
    import transformers

    path = to_gguf(make_hf(name, **EVEN), matrices=kind, metadata={"general.name": "tiny"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours = load(path)
    theirs_by_name = theirs.state_dict()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs_by_name[key]), key
    assert_same_logits(ours, theirs.eval(), ids_BT)


def test_half_precision_is_the_rounded_float32(make_hf, to_gguf):
    path = to_gguf(make_hf("llama", **EVEN), matrices="Q4_0")
    whole, half = load(path), load(path, dtype=torch.bfloat16)
    for (key, a), b in zip(whole.state_dict().items(), half.state_dict().values(), strict=True):
        assert torch.equal(a.to(torch.bfloat16), b), key


def test_llama3_scaling_is_found_in_its_tensor(make_hf, tmp_path, to_gguf):
    """Llama 3.1 and 3.2 ship their stretched frequencies as a tensor of divisors, without metadata."""
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    hf = make_hf("llama", head_dim=64, rope_parameters=scaling)
    plain = 5e5 ** -(torch.arange(0, 64, 2) / 64)
    divisors = (plain / hf.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    path = with_tensor(to_gguf(hf), tmp_path / "llama3.gguf", "rope_freqs.weight", divisors)
    rope = load(path).config.rope[FULL]
    assert (rope.rope_type, rope.factor, rope.original_max_position_embeddings) == ("llama3", 32.0, 8192)
    ids_BT = torch.randint(3, 97, (1, 60))
    assert_same_logits(load(path), hf, ids_BT)

    odd = with_tensor(to_gguf(hf), tmp_path / "odd.gguf", "rope_freqs.weight", divisors[::-1].copy())
    with pytest.raises(ConfigError, match=r"rope_freqs.*not the scaling of any Llama 3"):
        load(odd)


def with_tensor(source: Path, target: Path, name: str, values: np.ndarray) -> Path:
    """A copy of a GGUF file with one more tensor, or with one left out (`values` empty)."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        if tensor.name != name:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    if values.size:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_ends_of_text_and_of_turn_are_both_stops(make_hf, to_gguf):
    ids = {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.bos_token_id": 1}
    config = GGUFModel(GGUFFile(to_gguf(make_hf("llama"), metadata=ids))).config
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [2, 7])


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"llama.attention.head_count": "six"}, "head_count is 'six', of the wrong type"),
        ({"llama.block_count": 2_000_000_000}, "claims 2000000000 layers"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2}, "longrope"),
        ({"general.architecture": "mamba"}, r"unknown architecture mamba; supported are llama, qwen2"),
        ({"llama.attention.head_count": 5}, "not a multiple"),
        ({"llama.embedding_length": 52}, r"(48,|52)"),
    ],
)
def test_bad_metadata_is_named(metadata, says, make_hf, to_gguf, monkeypatch):
    path = to_gguf(make_hf("llama"))
    read = GGUFFile.__init__

    def changed(self, *args, **more):
        read(self, *args, **more)
        self.metadata.update(metadata)

    monkeypatch.setattr(GGUFFile, "__init__", changed)
    with pytest.raises((ModelFileError, ConfigError), match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["blk.1.attn_q.weight", "output_norm.weight", "token_embd.weight"])
def test_a_missing_tensor_is_named(name, make_hf, to_gguf, tmp_path):
    path = with_tensor(to_gguf(make_hf("llama")), tmp_path / "less.gguf", name, np.empty(0))
    with pytest.raises(ModelFileError, match=r"missing|has no"):
        load(path)


def test_a_tensor_without_a_place_is_named(make_hf, to_gguf, tmp_path):
    values = np.ones(48, dtype=np.float32)
    strange = with_tensor(to_gguf(make_hf("llama")), tmp_path / "a.gguf", "blk.0.ssm_a.weight", values)
    with pytest.raises(ModelFileError, match=r"blk\.0\.ssm_a\.weight has no place"):
        load(strange)
    # Known to the family, but not asked for by this config: a Qwen3 norm in a Llama.
    unasked = with_tensor(to_gguf(make_hf("llama")), tmp_path / "b.gguf", "blk.0.attn_q_norm.weight", values)
    with pytest.raises(ModelFileError, match=r"attn_q_norm\.weight has no place in a Llama"):
        load(unasked)


def test_starter_reports_types_and_bits(starter):
    """efficient.md fault 3: SmolLM2's rows of 576 hold no K-quant; what is there is told, not what the name says."""
    summary = GGUFFile(starter, strict=True).summary()
    assert summary.file_type == "MOSTLY_Q4_1"
    assert summary.tensors["token_embd.weight"] == ("Q8_0", 8.5)
    assert summary.tensors["blk.0.attn_q.weight"] == ("Q4_1", 5.0)
    assert summary.bits_per_weight == pytest.approx(5.74, abs=0.01)
    assert re.search(r"134\.5M parameters.*5\.74 bits.*Q4_1 79%, Q8_0 21%", str(summary))


def test_starter_speaks(starter):
    model = load(starter)
    prompt = "The capital of France is"
    ids_BT = torch.tensor([model.tokenizer.encode(prompt)])
    with torch.inference_mode():
        for _ in range(3):
            ids_BT = torch.cat((ids_BT, model(ids_BT, last_only=True)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert model.tokenizer.decode(ids_BT[0].tolist()).startswith(prompt + " Paris.")


@pytest.mark.slow
def test_starter_continues_as_transformers_does(starter):
    """Token for token, greedily, on the same file; transformers takes most of a minute to read it."""
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        starter.parent, gguf_file=starter.name, dtype=torch.float32
    ).eval()
    ours = load(starter)
    for prompt in ("The sea is", "def fibonacci(n):", "Water boils at", "Once upon a time"):
        ids_BT = torch.tensor([ours.tokenizer.encode(prompt)])
        expected = theirs.generate(ids_BT, max_new_tokens=16, do_sample=False, pad_token_id=0)
        with torch.inference_mode():
            while ids_BT.shape[1] < expected.shape[1]:
                ids_BT = torch.cat((ids_BT, ours(ids_BT, last_only=True)[:, -1].argmax(-1, keepdim=True)), dim=1)
        assert ids_BT.tolist() == expected.tolist(), prompt
