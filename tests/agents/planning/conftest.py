"""A model that keeps how it was asked, beside what; and a tiny random one, whose tokens are bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.agents.model import ChatModel, Reply
from modelworks.agents.tool import Tool
from modelworks.engine.engine import Engine
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tokenizer import Tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Watched:
    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self.name, self.context_length, self.count = model.name, model.context_length, model.count
        self.tools: list[Tool] = []
        self.choices: list[str] = []

    def reply(self, messages: Any, tools: Sequence[Tool] = (), *, choice: Any = "auto", **options: Any) -> Reply:
        self.tools = list(tools)
        self.choices.append(choice)
        return self._model.reply(messages, tools, choice=choice, **options)


@pytest.fixture
def watched() -> Callable[[Any], Watched]:
    return Watched


@pytest.fixture(scope="session")
def tiny() -> Llama:
    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    settings = {
        "model_type": "llama",
        "vocab_size": 258,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf(settings)).eval()
    model.tokenizer = Tokenizer(backend, eos_id=256, chat_template=CHATML)
    return model


@pytest.fixture(scope="session")
def engine(tiny: Llama) -> Iterator[Engine]:
    with Engine(tiny, kv_bytes=16 << 20) as running:
        yield running
