from __future__ import annotations

import pytest
from torch import nn

from modelworks.core.errors import ModelFileError
from modelworks.models.bert import BertEncoder, BertReader
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.llama import Llama
from modelworks.models.moe import MoE
from modelworks.models.registry import FAMILIES, architecture_of, family_of


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, Llama),
        ({"architectures": None, "model_type": "mistral"}, Llama),
        ({"model_type": "gemma3"}, Llama),
        ({"model_type": "mixtral"}, MoE),
        ({"model_type": "gpt2"}, GPT2),
        ({"architectures": ["BertForMaskedLM"]}, BertEncoder),
        ({"architectures": ["BertForQuestionAnswering"]}, BertReader),
    ],
)
def test_the_family_is_found(config, kind):
    assert family_of(config).kind is kind


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"architectures": [], "model_type": "mamba"}, "model_type='mamba'"),
        ({}, "model_type=None"),
        ({"architectures": [["x"]]}, r"\['x'\]"),
    ],
)
def test_an_unknown_architecture_is_named_with_those_supported(config, names):
    with pytest.raises(ModelFileError, match=f"unknown architecture {names}; supported are LlamaForCausalLM, .*BertM"):
        family_of(config)


def test_every_spelling_of_a_name_is_the_same_parameter():
    llama = FAMILIES["Gemma3ForConditionalGeneration"]
    for spelling in ("model.layers.0.x", "layers.0.x", "model.language_model.layers.0.x"):
        assert llama.bare(spelling) == "layers.0.x"
    assert llama.bare("language_model.model.layers.0.x") == "layers.0.x"
    assert llama.bare("language_model.lm_head.weight") == "lm_head.weight"
    bert = FAMILIES["BertModel"]
    assert bert.bare("bert.embeddings.LayerNorm.gamma") == bert.bare("embeddings.LayerNorm.weight")


def test_the_architecture_to_save_as():
    model = GPT2(GPT2Config(n_layer=1, n_embd=8, n_head=2, n_inner=8, vocab_size=5, n_positions=4))
    assert architecture_of(model) == ("GPT2LMHeadModel", FAMILIES["GPT2LMHeadModel"])
    with pytest.raises(ModelFileError, match="Linear is in no registered"):
        architecture_of(nn.Linear(1, 1))
