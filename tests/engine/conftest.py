"""Small random models, with and without a tokenizer, and the starter model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.core.errors import DownloadError
from modelworks.kernels.native import native
from modelworks.models.base import LanguageModel
from modelworks.models.fetch import pull
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.models.load import load
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tokenizer import Tokenizer

CONTEXT = 48
EOS = 256
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and two control tokens: text and ids are easy to tell from each other."""
    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    return Tokenizer(backend, eos_id=EOS, chat_template=CHATML)


def tiny_llama(**changes: Any) -> Llama:
    settings = {
        "model_type": "llama",
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.4,  # large, so that greedy choices are far from ties
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf(settings | changes)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def tiny_gpt2() -> GPT2:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=258, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Llama]:
    """Makes small random models; keyword arguments change their config."""
    return tiny_llama


@pytest.fixture(scope="session")
def bare() -> Llama:
    """A model without a tokenizer."""
    return tiny_llama()


@pytest.fixture(scope="session")
def model() -> Llama:
    """The same model with a byte tokenizer."""
    model = tiny_llama()
    model.tokenizer = byte_tokenizer()
    return model


@pytest.fixture(scope="session", params=["llama", "sliding", "gpt2"])
def any_model(request: pytest.FixtureRequest) -> LanguageModel:
    """Rotary and learned positions, full and sliding attention."""
    if request.param == "llama":
        return tiny_llama()
    if request.param == "sliding":
        return tiny_llama(model_type="mistral", sliding_window=4)
    return tiny_gpt2()


@pytest.fixture
def gpt2() -> GPT2:
    return tiny_gpt2()


@pytest.fixture(scope="session")
def bytes_only() -> Tokenizer:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def merged() -> Tokenizer:
    """Byte-level BPE with merges, so that tokens cross what a grammar tells apart, and a token of broken UTF-8."""
    alphabet = {char: byte for byte, char in BYTE_TO_CHAR.items()}
    pairs = [
        ("{", '"'),
        ('"', ":"),
        ('":', '"'),
        ('"', ","),
        ("a", "b"),
        ("ab", "a"),
        ("1", "2"),
        ("Ġ", "a"),
        ('"', "}"),
    ]
    pairs += [(BYTE_TO_CHAR[0xC3], BYTE_TO_CHAR[0xA9]), ("a", BYTE_TO_CHAR[0xC3]), (BYTE_TO_CHAR[0xA9], "a")]
    vocab = alphabet | {left + right: 256 + at for at, (left, right) in enumerate(pairs)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>", "<|endoftext|>", "<|im_start|>"])
    return Tokenizer(backend, eos_id=backend.token_to_id("<|im_end|>"))


@pytest.fixture(scope="session")
def smollm() -> LanguageModel:
    try:
        pull("starter")
    except DownloadError as error:
        pytest.skip(f"the starter model is not here: {error}")
    return load("starter", kind=LanguageModel)


class Recall(LanguageModel):
    """Logits that hang on every token so far, which it reads back from its cache: one wrong block changes the answer.

    They are a hash, exact whatever the batch and the chunks, so answers can be compared without a tolerance.
    """

    VOCAB = 13

    def __init__(self) -> None:
        super().__init__()
        self.config = LlamaConfig.from_hf(
            {
                "model_type": "llama",
                "vocab_size": self.VOCAB,
                "hidden_size": 2,
                "intermediate_size": 2,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "max_position_embeddings": 4096,
                "eos_token_id": self.VOCAB - 1,
            }
        )
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    @property
    def context_length(self) -> int:
        return 4096

    def forward(
        self, input_ids_BT: torch.Tensor, *, cache: Any = None, last_only: bool = False, **_: Any
    ) -> torch.Tensor:
        T = input_ids_BT.shape[1]
        held = cache.update(0, *(input_ids_BT[:, None, :, None].float(),) * 2)[0]
        rows = [self.row(ids)[-1 if last_only else -T :] for ids in held[:, 0, :, 0].long().tolist()]
        return torch.stack(rows)

    def row(self, ids: list[int]) -> torch.Tensor:
        hashed, seen = [], 0
        for index in ids:
            assert 0 <= index < self.VOCAB, "the cache gives back what was never written"
            seen = (seen * 31 + index + 7) % 10_007
            hashed.append(seen)
        return 3 * torch.sin(torch.outer(torch.tensor(hashed).double(), torch.arange(1, self.VOCAB + 1).double()))


@pytest.fixture(scope="session")
def recall() -> Recall:
    return Recall()


@pytest.fixture
def native_kernels() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if native() is None:
            pytest.skip("the native kernels are not built here")
