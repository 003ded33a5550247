from __future__ import annotations

import json

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.models.bert import BertConfig, BertEncoder
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load
from modelworks.models.reward import RewardConfig, RewardModel
from modelworks.models.save import save

SHAPE = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def language_model(kind: str):
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2(
            GPT2Config(vocab_size=31, n_positions=32, n_embd=16, n_layer=2, n_head=2, n_inner=32, pad_token_id=0)
        )
    extra = {"head_dim": 4} if kind == "qwen3" else {}
    return Llama(LlamaConfig.from_hf({"model_type": kind, **SHAPE, **extra, "tie_word_embeddings": False}))


def scored(kind: str) -> RewardModel:
    model = RewardModel.from_language_model(language_model(kind).eval())
    torch.nn.init.normal_(model.score.weight)
    return model


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_a_saved_model_scores_alike_here_and_in_transformers(kind, tmp_path):
    """A scalar head is saved with the rest (LLaMA-Factory#9369, trl#1379)."""
    transformers = pytest.importorskip("transformers")
    model = scored(kind)
    texts = [[5, 6, 7, 2], [8, 2, 9, 2], [3]]
    expected = model.rewards(texts)
    save(model, tmp_path / "reward")
    assert torch.equal(load(tmp_path / "reward", kind=RewardModel).rewards(texts), expected)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    for text, reward in zip(texts, expected):
        with torch.no_grad():
            found = theirs(torch.tensor([text])).logits[0, 0]
        assert float(found) == pytest.approx(float(reward), abs=1e-5)


def test_a_text_is_scored_at_its_last_token_in_any_batch():
    model = scored("llama")
    texts = [[5, 2, 7, 8, 2], [4], [9, 9, 3]]
    together = model.rewards(texts, batch_tokens=64)
    apart = torch.stack([model(torch.tensor([text]))[0, -1, 0].detach() for text in texts])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)
    assert torch.equal(model.rewards(texts, batch_tokens=1), model.rewards(list(texts), batch_tokens=1))


def test_a_new_one_has_the_models_weights_and_no_opinion():
    body = language_model("llama")
    model = RewardModel.from_language_model(body)
    assert model.rewards([[1, 2, 3]]).tolist() == [0]
    assert model.body.model.embed_tokens.weight is body.model.embed_tokens.weight
    assert not any("lm_head" in name for name, _ in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_no_reward_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match="3 classes"):
        RewardConfig.from_hf({"model_type": "llama", **SHAPE, "num_labels": 3})
    encoder = BertEncoder(BertConfig.from_hf({"model_type": "bert", **SHAPE, "type_vocab_size": 2}))
    with pytest.raises(ConfigError, match="cannot score"):
        RewardModel.from_language_model(encoder)
    save(scored("llama"), tmp_path / "reward")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b"}
    del config["num_labels"]
    (tmp_path / "reward" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="2 classes"):
        load(tmp_path / "reward")
    with pytest.raises(ValueError, match="no ids"):
        scored("llama").rewards([[1], []])
