"""Choosing matrices by pattern, and being told what is there where a pattern matches nothing."""

from __future__ import annotations

import pytest
import torch

from modelworks.adapt.targets import places_of, select
from modelworks.core.errors import ConfigError
from modelworks.models.bert import BertConfig, BertEncoder
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.llama import Llama


@pytest.mark.parametrize(
    ("targets", "exclude", "count"),
    [
        (("all-linear",), (), 21),
        (("q_proj", "v_proj"), (), 6),
        (("self_attn.q_proj",), (), 3),
        (("model.layers.1.mlp.up_proj",), (), 1),
        ((r"layers\.[02]\..*_proj",), (), 14),
        ((r"mlp\..*",), ("down_proj",), 6),
        (("all-linear",), (r"layers\.0\..*",), 14),
        (("proj_q|k_proj",), (), 3),
    ],
)
def test_patterns(targets: tuple[str, ...], exclude: tuple[str, ...], count: int, tiny: Llama) -> None:
    assert len(select(tiny, targets, exclude)) == count


@pytest.mark.parametrize(
    ("targets", "exclude", "said"),
    [
        (
            ("c_attn",),
            (),
            r"targets: 'c_attn' matches no matrix; the model has .*q_proj \(3\), .*down_proj \(3\)",
        ),
        (("q_proj", "proj"), (), "'proj' matches no matrix"),  # an end counts from a dot on
        (("lm_head",), (), "'lm_head' matches no matrix"),
        (("all-linear",), ("wte",), "exclude: 'wte' matches no matrix"),
        (("q_proj",), ("q_proj",), "exclude takes away all"),
        ((), (), "targets is empty"),
        (("q_proj(",), (), "no regular expression"),
    ],
)
def test_patterns_that_choose_nothing(
    targets: tuple[str, ...], exclude: tuple[str, ...], said: str, tiny: Llama
) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        select(tiny, targets, exclude)
    assert "\n" not in str(raised.value)


def test_names_are_hugging_faces_in_every_family() -> None:
    with torch.device("meta"):
        gpt2 = GPT2(GPT2Config(n_layer=2, n_embd=48, n_head=6))
        bert = BertEncoder(
            BertConfig.from_hf(
                {
                    "vocab_size": 50,
                    "hidden_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 6,
                    "intermediate_size": 80,
                    "max_position_embeddings": 64,
                    "type_vocab_size": 2,
                }
            )
        )
    assert [place.name for place in places_of(gpt2)][:2] == [
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
    ]
    assert len(places_of(gpt2)) == 8  # no head
    assert [place.name for place in select(bert, ["query"])] == [
        "encoder.layer.0.attention.self.query",
        "encoder.layer.1.attention.self.query",
    ]
