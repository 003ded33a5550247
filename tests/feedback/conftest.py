"""Public preference data where the machine has it, a tiny random model, and engines over it or over a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.engine.engine import Engine
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tokenizer import Tokenizer

_DATA = Path(__file__).parents[3] / "shared" / "data" / "preference"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tiny() -> Llama:
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
        "max_position_embeddings": 2048,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf(settings)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    model.tokenizer = Tokenizer(backend, eos_id=256, chat_template=CHATML)
    return model


@pytest.fixture(scope="session")
def tiny() -> Llama:
    return make_tiny()


@pytest.fixture(scope="session")
def engine(tiny: Llama) -> Iterator[Engine]:
    with Engine(tiny, kv_bytes=64 << 20) as running:
        yield running


@pytest.fixture
def says(tiny: Llama, scripted: Callable[[Sequence[str]], Any]) -> Callable[[Sequence[str]], Any]:
    """An engine that says what it is told to, over the tiny model's tokenizer and a context of 2,048."""

    def make(answers: Sequence[str]) -> Any:
        engine = scripted(answers)
        engine.model = SimpleNamespace(tokenizer=tiny.tokenizer, context_length=2048)
        return engine

    return make


@pytest.fixture(scope="session")
def preference() -> Path:
    if not _DATA.is_dir():
        pytest.skip("the public preference data is not here")
    return _DATA
